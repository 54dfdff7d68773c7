"""Reports of program starts, needed while the policy has names that only user space can match."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.tracepoint import Tracepoint
from agent.kernel.attach.gates import EXEC
from agent.kernel.pins import Pins
from agent.observe.executables import running_executables
from agent.observe.proc import ProcReader
from agent.policy.tables.compile import Compiled


def is_of_use(compiled: Compiled | None) -> bool:
    """True if a clause depends on a name that user space matches, or on the addresses of a network
    namespace."""
    return depends_on_addresses(compiled) or (compiled is not None and bool(compiled.index.globs))


def depends_on_addresses(compiled: Compiled | None) -> bool:
    return compiled is not None and bool(compiled.index.networks)


def exec_tracepoint(pins: Pins) -> Tracepoint:
    return Tracepoint(pins, "sched_process_exec", EXEC, "programs are named when they connect")


@dataclass(frozen=True, slots=True)
class ExecWatch:
    """Attached while the policy has names that only user space can match, or addresses of network
    namespaces."""

    tracepoint: Tracepoint
    keeper: PolicyKeeper
    reader: ProcReader

    def follow(self) -> bool:
        """Attach or detach. True if the tracepoint was just attached: name the programs that started
        before."""
        return self.tracepoint.follow(is_of_use(self.keeper.compiled))

    def look_back(self) -> None:
        """Name the executables that run already. Reads all of /proc."""
        for path in running_executables(self.reader):
            self.keeper.executable_known(path)
