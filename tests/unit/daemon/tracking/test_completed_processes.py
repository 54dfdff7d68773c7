from __future__ import annotations

import pytest

from agent import abi
from agent.daemon.tracking import completed_processes
from agent.daemon.tracking.completed_processes import CompletedProcesses
from agent.model import Process
from tests.unit.daemon.worlds import GoneProcesses, new_names


def identity(pid: int, start_ns: int = 7) -> bytes:
    return bytes(abi.Identity(pid=pid, start_ns=start_ns))


def pids_asked(attributor: GoneProcesses) -> list[int]:
    return [seen.pid for seen, _, _ in attributor.asked]


def test_each_process_is_completed_once() -> None:
    attributor = GoneProcesses()
    processes = CompletedProcesses(new_names(), attributor)  # type: ignore[arg-type]
    first = processes.process(identity(5))
    assert first is not None
    assert first.pid == 5
    assert processes.process(identity(5)) is first
    assert processes.process(identity(5, start_ns=8)) != first, "the pid was reused"
    accepted = processes.acceptor(6, 9, 0)
    assert accepted is processes.acceptor(6, 9, 0)
    assert accepted == Process(pid=6, start_boot_ns=9)
    assert pids_asked(attributor) == [5, 5, 6]


def test_who_is_remote_or_unknown_is_nobody() -> None:
    attributor = GoneProcesses()
    processes = CompletedProcesses(new_names(), attributor)  # type: ignore[arg-type]
    assert processes.process(bytes(abi.Identity(netns=3))) is None
    assert processes.acceptor(0, 0, 0) is None
    assert attributor.asked == []


def test_as_many_are_remembered_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completed_processes, "KNOWN_PROCESSES", 2)
    attributor = GoneProcesses()
    processes = CompletedProcesses(new_names(), attributor)  # type: ignore[arg-type]
    for pid in (1, 2, 1, 3, 1):
        processes.process(identity(pid))
    assert pids_asked(attributor) == [1, 2, 3, 1]
