"""Ports that the kernel gives to whoever asks for none (ip(7): ip_local_port_range)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.model import EphemeralPorts

_SYSCTL = Path("/proc/sys/net/ipv4")
"""Shows the network namespace of the process that reads it."""


def ephemeral_ports(sysctl: Path = _SYSCTL) -> EphemeralPorts:
    """Of this process's network namespace; none where the kernel does not say."""
    try:
        first, last = (sysctl / "ip_local_port_range").read_text().split()
        reserved = (sysctl / "ip_local_reserved_ports").read_text()
        return EphemeralPorts(int(first), int(last), tuple(_ranges(reserved)))
    except (OSError, ValueError):
        return EphemeralPorts()


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    """8080,9000-9010 of it."""
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            yield int(first), int(last or first)
