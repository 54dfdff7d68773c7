"""Under what a connection is made: each condition has a server and clients of its own, side by side.

Attached programs act by cgroup and packet filters by namespace, so every condition can stay set up and be
measured in turn within the same second: "off" is a cgroup nothing is attached to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fixtures import cgroups
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace

ADDRESS = "127.0.0.1"
SOURCES = "16"
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Condition:
    name: str
    namespace: Namespace
    cgroup: str
    """Path of the cgroup of server and clients."""
    port: int
    program: Path


@contextlib.contextmanager
def on_one_cpu(conditions: Iterable[Condition]) -> Iterator[None]:
    """Servers, and clients started meanwhile, share one CPU: a rate is then the work that a connection costs.

    On two, each waits for the other half of the time, and what is measured is how their CPUs fall asleep and
    wake: there, a busy loop of 1 us in the connect hook makes a connection 8 us longer."""
    everywhere = os.sched_getaffinity(0)
    place = {max(everywhere)}
    pids = [0]
    for cgroup in {condition.cgroup for condition in conditions}:
        pids += cgroups.members(cgroup)
    try:
        for pid in pids:
            os.sched_setaffinity(pid, place)
        yield
    finally:
        for pid in pids:
            os.sched_setaffinity(pid, everywhere)


class Traffic:
    """Connect → byte → close on loopback, by the C generator."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def serve(self, condition: Condition) -> None:
        self._lab.serve(
            condition.namespace,
            ADDRESS,
            condition.port,
            program=condition.program,
            cgroup=condition.cgroup,
            workers=WORKERS,
        )

    def run(
        self, condition: Condition, connections: int, clients: int, options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """What the generator printed. Raises RuntimeError if a single connection failed: a rate with
        errors in it says nothing."""
        result = self._lab.load(
            condition.namespace,
            ADDRESS,
            condition.port,
            connections=connections,
            program=condition.program,
            cgroup=condition.cgroup,
            options=["--clients", str(clients), "--sources", SOURCES, *options],
        )
        if result["errors"]:
            raise RuntimeError(f"{condition.name}: connections failed: {result['errors']}")
        return result
