from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from agent.model import Protocol, Socket, to_address
from agent.observe.holder_cache import OwnerCache
from agent.observe.proc import ProcReader
from tests.unit.observe.proc_tree import add_process, hold, let_go, remove_process


class CountingReader(ProcReader):
    """Knows whose descriptors were looked at; each look can be made to take its time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, ticks_per_s=100)
        self.looked_at: list[int] = []
        self.now_s = 0.0
        self.look_takes_s = 0.0

    def fds(self, pid: int) -> Mapping[int, int]:
        self.looked_at.append(pid)
        self.now_s += self.look_takes_s
        return super().fds(pid)


@pytest.fixture
def reader(tmp_path: Path) -> CountingReader:
    return CountingReader(tmp_path)


@pytest.fixture
def cache(reader: CountingReader) -> OwnerCache:
    return OwnerCache(reader, clock=lambda: reader.now_s)


def listening(inode: int, cookie: int = 0) -> Socket:
    return Socket(
        protocol=Protocol.TCP,
        family=socket.AF_INET,
        state=10,
        local=to_address("0.0.0.0"),
        local_port=5432,
        remote=to_address("0.0.0.0"),
        remote_port=0,
        inode=inode,
        cookie=cookie or inode,
        uid=0,
        netns=1,
    )


def pids(
    cache: OwnerCache, sockets: Iterable[Socket], openers: Mapping[int, int] | None = None
) -> dict[int, list[int]]:
    return {
        cookie: [process.pid for process in processes]
        for cookie, processes in cache.owners(list(sockets), {}, openers).items()
    }


def test_all_holders_are_named_the_oldest_first(cache: OwnerCache, tmp_path: Path) -> None:
    add_process(tmp_path, 7, start_ticks=300, sockets={3: 50})
    add_process(tmp_path, 8, start_ticks=100, sockets={5: 50, 6: 50, 7: 60})
    add_process(tmp_path, 9, start_ticks=200)
    assert pids(cache, [listening(50), listening(60)]) == {50: [8, 7], 60: [8]}


def test_nobody_is_looked_at_again_while_nothing_changes(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    for pid in range(10, 20):
        add_process(tmp_path, pid, sockets={3: pid})
    sockets = [listening(10), listening(15), listening(999)]
    first = pids(cache, sockets)
    reader.looked_at.clear()
    assert pids(cache, sockets) == first == {10: [10], 15: [15]}
    assert reader.looked_at == []


def test_a_worker_that_is_forked_later_is_named_without_looking_at_the_others(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    add_process(tmp_path, 7, start_ticks=1, sockets={3: 50})
    pids(cache, [listening(50)])
    add_process(tmp_path, 8, start_ticks=2, sockets={3: 50})
    reader.looked_at.clear()
    assert pids(cache, [listening(50)]) == {50: [7, 8]}
    assert reader.looked_at == [8]


def test_a_holder_that_ended_is_left_out(cache: OwnerCache, tmp_path: Path) -> None:
    for pid in (7, 8):
        add_process(tmp_path, pid, sockets={3: 50})
    pids(cache, [listening(50)])
    remove_process(tmp_path, 7)
    assert pids(cache, [listening(50)]) == {50: [8]}


def test_a_holder_that_closed_its_descriptor_is_left_out(cache: OwnerCache, tmp_path: Path) -> None:
    for pid in (7, 8):
        add_process(tmp_path, pid, sockets={3: 50})
    pids(cache, [listening(50)])
    let_go(tmp_path, 7, 3)
    assert pids(cache, [listening(50)]) == {50: [8]}


def test_a_holder_that_moved_the_socket_to_another_descriptor_stays(
    cache: OwnerCache, tmp_path: Path
) -> None:
    add_process(tmp_path, 7, sockets={3: 50})
    pids(cache, [listening(50)])
    let_go(tmp_path, 7, 3)
    hold(tmp_path, 7, 9, 50)
    assert pids(cache, [listening(50)]) == {50: [7]}


def test_a_socket_handed_to_an_old_process_is_found_when_its_only_holder_ends(
    cache: OwnerCache, tmp_path: Path
) -> None:
    add_process(tmp_path, 7, sockets={3: 50})
    add_process(tmp_path, 8)
    pids(cache, [listening(50)])
    hold(tmp_path, 8, 3, 50)
    remove_process(tmp_path, 7)
    assert pids(cache, [listening(50)]) == {50: [8]}


def test_a_process_that_took_over_the_pid_is_not_its_predecessor(cache: OwnerCache, tmp_path: Path) -> None:
    add_process(tmp_path, 7, start_ticks=1, exe="/usr/bin/old", sockets={3: 50})
    pids(cache, [listening(50)])
    remove_process(tmp_path, 7)
    add_process(tmp_path, 7, start_ticks=2, exe="/usr/bin/new", sockets={3: 50})
    ((process,),) = cache.owners([listening(50)], {}).values()
    assert process.exe == "/usr/bin/new"


def test_a_process_that_executed_another_program_is_described_anew(cache: OwnerCache, tmp_path: Path) -> None:
    add_process(tmp_path, 7, comm="sh", exe="/bin/sh", sockets={3: 50})
    pids(cache, [listening(50)])
    remove_process(tmp_path, 7)
    add_process(tmp_path, 7, comm="server", exe="/opt/server", sockets={3: 50})
    ((process,),) = cache.owners([listening(50)], {}).values()
    assert process.exe == "/opt/server"


def test_an_inode_number_that_is_used_again_is_another_socket(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    add_process(tmp_path, 7, sockets={3: 50})
    pids(cache, [listening(50, cookie=1)])
    hold(tmp_path, 7, 4, 51)
    reader.looked_at.clear()
    pids(cache, [listening(50, cookie=2)])
    assert reader.looked_at == [7]


def test_a_socket_without_inode_has_no_owner(cache: OwnerCache, tmp_path: Path) -> None:
    add_process(tmp_path, 7, sockets={3: 50})
    assert pids(cache, [listening(0, cookie=5)]) == {}


def test_what_changes_unseen_is_read_anew_after_a_minute(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    place = add_process(tmp_path, 7, uids=(0, 0, 0, 0), sockets={3: 50})
    cache.owners([listening(50)], {})
    status = (place / "status").read_text()
    (place / "status").write_text(status.replace("Uid:\t0\t0", "Uid:\t0\t33"))
    reader.now_s = 61.0
    ((process,),) = cache.owners([listening(50)], {}).values()
    assert process.uid == 33


def test_a_costly_look_is_followed_by_a_rest_in_which_new_sockets_have_no_owner(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    add_process(tmp_path, 7, sockets={3: 50})
    reader.look_takes_s = 0.3
    pids(cache, [listening(50)])
    hold(tmp_path, 7, 4, 51)
    reader.looked_at.clear()
    reader.now_s += 20.0
    assert pids(cache, [listening(50), listening(51)]) == {50: [7]}
    assert reader.looked_at == []
    reader.now_s += 11.0
    assert pids(cache, [listening(50), listening(51)]) == {50: [7], 51: [7]}


def rest(cache: OwnerCache, reader: CountingReader, tmp_path: Path) -> None:
    """A pass over three processes, after which the cache rests."""
    for pid in (7, 8, 9):
        add_process(tmp_path, pid, sockets={3: pid})
    reader.look_takes_s = 0.02
    pids(cache, [listening(7)])


def test_during_a_rest_whoever_called_listen_is_looked_at_and_nobody_else(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    rest(cache, reader, tmp_path)
    hold(tmp_path, 8, 4, 51)
    reader.looked_at.clear()
    for _ in range(3):
        assert pids(cache, [listening(7), listening(51)], {51: 8}) == {7: [7], 51: [8]}
        assert reader.looked_at == [8]


def test_during_a_rest_the_young_are_looked_at_once_for_a_socket_that_nobody_is_known_to_have_opened(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    """A service's process is there before it has bound its UDP port."""
    rest(cache, reader, tmp_path)
    add_process(tmp_path, 10, sockets={})
    add_process(tmp_path, 11, sockets={})
    assert pids(cache, [listening(7)]) == {7: [7]}
    hold(tmp_path, 10, 3, 51)
    reader.looked_at.clear()
    for _ in range(3):
        assert pids(cache, [listening(7), listening(51)]) == {7: [7], 51: [10]}
    assert sorted(reader.looked_at) == [10, 11]


def test_so_many_young_that_they_are_not_cheap_to_look_at_are_left_alone_for_a_while(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    rest(cache, reader, tmp_path)
    for pid in (10, 11, 12):
        add_process(tmp_path, pid, sockets={})
    pids(cache, [listening(7)])
    for inode in (51, 52):  # nobody holds them
        reader.looked_at.clear()
        pids(cache, [listening(7), listening(51), listening(inode)])
        assert sorted(reader.looked_at) == ([10, 11, 12] if inode == 51 else [])


@pytest.mark.parametrize("seen", ["while it lives", "never"])
def test_during_a_rest_pid_1_is_found_to_hold_what_was_opened_for_it(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path, seen: str
) -> None:
    """By a process that has ended since; a look may have met that one."""
    add_process(tmp_path, 1)
    rest(cache, reader, tmp_path)
    if seen == "while it lives":
        add_process(tmp_path, 20, sockets={3: 51})
        assert pids(cache, [listening(51)], {51: 20}) == {51: [20]}
        remove_process(tmp_path, 20)
    hold(tmp_path, 1, 4, 51)
    assert pids(cache, [listening(51)], {51: 20}) == {51: [1]}


def test_an_opener_that_hides_his_descriptor_is_looked_at_once_for_a_socket(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    rest(cache, reader, tmp_path)
    reader.looked_at.clear()
    for _ in range(3):
        assert pids(cache, [listening(7), listening(51)], {51: 8}) == {7: [7]}
        assert reader.looked_at == [8]


def test_an_opener_with_very_many_descriptors_rests_too(
    cache: OwnerCache, reader: CountingReader, tmp_path: Path
) -> None:
    add_process(tmp_path, 7)
    reader.look_takes_s = 0.3
    pids(cache, [])
    pids(cache, [listening(50)], {50: 7})
    reader.looked_at.clear()
    for inode in range(51, 60):
        pids(cache, [listening(inode)], {inode: 7})
    assert reader.looked_at == []


def test_the_network_namespace_is_named_by_its_cookie(cache: OwnerCache, tmp_path: Path) -> None:
    add_process(tmp_path, 7, netns=4026532000, sockets={3: 50})
    ((process,),) = cache.owners([listening(50)], {4026532000: 17}).values()
    assert process.netns == 17
