"""Ports that are never refused: those of the settings, and the agent's own once they are known."""

from __future__ import annotations

from dataclasses import dataclass

from agent.kernel.tables.policy_maps import PolicyMaps


@dataclass(slots=True)
class Failsafe:
    maps: PolicyMaps
    ports: frozenset[int]

    def add(self, ports: frozenset[int]) -> None:
        self.ports |= ports
        self.tell()

    def tell(self) -> None:
        """Write the ports to the map that the BPF programs read."""
        self.maps.set_failsafe(self.ports)
