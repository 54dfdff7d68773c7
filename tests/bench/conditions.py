"""Under what a connection is made: each condition has a server and clients of its own, side by side.

Attached programs act by cgroup and packet filters by namespace, so every condition can stay set up and be
measured in turn within the same second: "off" is a cgroup nothing is attached to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
