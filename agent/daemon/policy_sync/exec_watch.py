"""Hearing of programs as they start, while the policy speaks of what only user space can tell of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.daemon.policy_sync.tracepoint import Tracepoint
from agent.kernel.attach.gates import EXEC
from agent.kernel.pins import Pins
from agent.policy.tables.compile import Compiled


def is_of_use(compiled: Compiled | None) -> bool:
    """Does a clause depend on a name, or on the addresses of a network namespace?"""
    return depends_on_addresses(compiled) or (compiled is not None and bool(compiled.index.globs))


def depends_on_addresses(compiled: Compiled | None) -> bool:
    return compiled is not None and bool(compiled.index.networks)


def exec_tracepoint(pins: Pins, wanted: Callable[[], bool]) -> Tracepoint:
    return Tracepoint(pins, "sched_process_exec", EXEC, wanted, "programs are named when they connect")


@dataclass(slots=True)
class ExecWatch:
    tracepoint: Tracepoint
    look_back: Callable[[], None]
    """At what has started before."""

    def follow(self) -> None:
        """Attach or let go."""
        if self.tracepoint.follow():
            self.look_back()
