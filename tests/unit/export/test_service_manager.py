"""The service manager is told over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.export.service_manager import FOREVER_S, Manager, NoManager, service_manager


@pytest.fixture
def manager_socket(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(5)
        yield bound


def heard(bound: socket.socket) -> dict[str, str]:
    lines = bound.recv(4096).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_a_life_is_told_in_order(manager_socket: socket.socket) -> None:
    manager = service_manager({"NOTIFY_SOCKET": manager_socket.getsockname()})
    manager.starting(900)
    assert heard(manager_socket)["EXTEND_TIMEOUT_USEC"] == "900000000"
    manager.ready("policy generation 3 is in force")
    assert heard(manager_socket) == {"READY": "1", "STATUS": "policy generation 3 is in force"}
    manager.reloading()
    reloading = heard(manager_socket)
    assert reloading["RELOADING"] == "1"
    assert int(reloading["MONOTONIC_USEC"]) > 0
    manager.alive()
    assert heard(manager_socket) == {"WATCHDOG": "1"}
    manager.stopping()
    assert heard(manager_socket)["STOPPING"] == "1"


def test_an_abstract_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        name = f"licet-test-{os.getpid()}"
        bound.bind("\0" + name)
        bound.settimeout(5)
        service_manager({"NOTIFY_SOCKET": "@" + name}).alive()
        assert heard(bound) == {"WATCHDOG": "1"}


def test_the_watchdog_is_fed_three_times_in_its_period() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}
    assert service_manager(environment).alive_every_s == 20


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}
    assert service_manager(environment).alive_every_s == FOREVER_S


def test_children_do_not_inherit_the_manager() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/root"}
    service_manager(environment)
    assert environment == {"HOME": "/root"}


@pytest.mark.parametrize("address", ["", "vsock:2:1234"])
def test_nobody_is_told_where_nobody_asked(address: str) -> None:
    manager = service_manager({"NOTIFY_SOCKET": address})
    assert type(manager) is NoManager
    manager.ready("nobody hears this")


def test_a_manager_that_is_gone_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Manager(str(tmp_path / "gone"), None).ready("in force")
    assert "READY=1" in caplog.text
