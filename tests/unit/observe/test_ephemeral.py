"""Ports that the kernel gives to whoever asks for none."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.model import EphemeralPorts
from agent.observe.ephemeral import ephemeral_ports


def sysctl(folder: Path, given: str, reserved: str) -> EphemeralPorts:
    (folder / "ip_local_port_range").write_text(given)
    (folder / "ip_local_reserved_ports").write_text(reserved)
    return ephemeral_ports(folder)


def test_what_is_reserved_is_given_to_nobody(tmp_path: Path) -> None:
    ports = sysctl(tmp_path, "32768\t60999\n", "40000,40010-40020\n")
    given = {
        port for port in (32767, 32768, 39999, 40000, 40010, 40015, 40020, 60999, 61000) if ports.gives(port)
    }
    assert given == {32768, 39999, 60999}


def test_nothing_reserved_is_an_empty_line(tmp_path: Path) -> None:
    assert sysctl(tmp_path, "1024\t1024\n", "\n") == EphemeralPorts(1024, 1024)


@pytest.mark.parametrize("given", ["", "nonsense here", "1"])
def test_where_the_kernel_does_not_say_nothing_is_known(tmp_path: Path, given: str) -> None:
    assert sysctl(tmp_path, given, "") == EphemeralPorts()
    assert ephemeral_ports(tmp_path / "none") == EphemeralPorts()
