"""Ports that the kernel assigns to sockets that request none (ip(7): ip_local_port_range)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.model import EphemeralPorts

_SYSCTL = Path("/proc/sys/net/ipv4")
"""These files show the network namespace of the process that reads them."""


def ephemeral_ports(sysctl: Path = _SYSCTL) -> EphemeralPorts:
    """The ephemeral ports of this process's network namespace; empty if they cannot be read."""
    try:
        first, last = (sysctl / "ip_local_port_range").read_text().split()
        reserved = (sysctl / "ip_local_reserved_ports").read_text()
        return EphemeralPorts(int(first), int(last), tuple(_ranges(reserved)))
    except (OSError, ValueError):
        return EphemeralPorts()


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    """Ranges in a text such as 8080,9000-9010."""
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            yield int(first), int(last or first)
