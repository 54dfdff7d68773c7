"""Tables into real maps, counters out of them; no program needs to run for it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from agent import abi
from agent.daemon.tracking.listener_rows import ListenerRows
from agent.kernel.tables import policy_maps
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.model import Decision, Origin, PortClass, Protocol, Reason, Target, Verdict, to_network
from agent.policy.tables.shape import (
    Dimension,
    Numbered,
    SetId,
    Tables,
    TargetKey,
    TargetRow,
    empty_tables,
)
from agent.policy.values import Unresolved
from agent.system import bpf_map, libbpf
from agent.system.bpf_map import Map
from agent.system.bpf_ring import RECORDS_AT_ONCE, RingReader
from tests.fixtures.lab import Lab
from tests.kernel.loading import Loading, loading_in, map_by_id

VERDICT = Verdict(Decision.DENIED, Reason.EXCLUDED, target=3, grant=0)
FREE = SetId.FIRST_FREE


@pytest.fixture(scope="module")
def loading() -> Iterator[Loading]:
    """Programs loaded once: what is in the maps is each test's own affair."""
    with Lab() as lab, loading_in(lab) as one:
        one.load()
        yield one
        one.unload()


@pytest.fixture
def maps(loading: Loading) -> Iterator[PolicyMaps]:
    with closing(PolicyMaps(loading.pins)) as opened:
        yield opened


@pytest.fixture
def counters(loading: Loading) -> Iterator[Counters]:
    for name in ("counts", "flows"):
        opened = loading.pins.open_map(name)
        for key in list(opened):
            opened.remove(key)
        opened.close()
    with closing(Counters(loading.pins)) as counters:
        yield counters


def tables_of(*ports: int) -> Tables:
    row = TargetRow(
        id=1,
        target=Target("db", PortClass.INTERNAL),
        mode="observe",  # type: ignore[arg-type]
        unresolved=Unresolved.ALLOW,
        clock_synced=True,
        drops=False,
        excluded=SetId.EMPTY,
        home_netns=1,
        candidates=(),
    )
    anywhere = to_network("10.0.0.0/8")
    return dataclasses.replace(
        empty_tables(),
        targets={TargetKey(0, Protocol.TCP, number, anywhere): 1 for number, _ in enumerate(ports, 1)},
        numbers=tuple(Numbered(port, port, number) for number, port in enumerate(ports, 1)),
        rows={1: row},
    )


def install(maps: PolicyMaps, tables: Tables) -> int:
    fresh = maps.prepare(tables)
    fresh.members.close()
    return maps.put_in_force(fresh)


def in_force(loading: Loading, name: str) -> int:
    """Id of the inner map that programs read now."""
    generation = abi.U64.unpack(_read(loading, "generation", 0))[0]
    return int(abi.U32.unpack(_read(loading, name, generation & 1))[0])


def _read(loading: Loading, name: str, index: int) -> bytes:
    opened = loading.pins.open_map(name)
    try:
        found = opened.get(abi.U32.pack(index))
        assert found is not None
        return found
    finally:
        opened.close()


def declared_ports(loading: Loading) -> set[int]:
    ports = loading.pins.open_map("ports")
    words = {abi.U32.unpack(key)[0]: abi.U64.unpack(value)[0] for key, value in ports.items()}
    ports.close()
    return {word * 64 + bit for word, bits in words.items() for bit in range(64) if bits >> bit & 1}


def test_a_generation_takes_the_other_slot_and_the_last_one_stays_whole(
    loading: Loading, maps: PolicyMaps
) -> None:
    first = install(maps, tables_of(5432))
    before = in_force(loading, "targets")
    second = install(maps, tables_of(6379))
    assert second == first + 1 == maps.generation
    assert in_force(loading, "targets") != before
    other_slot = abi.U32.unpack(_read(loading, "targets", first & 1))[0]
    assert other_slot == before, "whoever still reads the generation before finds it"


def test_another_daemon_counts_generations_on(loading: Loading, maps: PolicyMaps) -> None:
    generation = install(maps, tables_of(1))
    with closing(PolicyMaps(loading.pins)) as again:
        assert again.generation == generation
        assert install(again, tables_of(2)) == generation + 1


def test_only_the_ports_of_the_generation_in_force_are_declared(loading: Loading, maps: PolicyMaps) -> None:
    install(maps, tables_of(0, 1, 63, 64, 5432, 65535))
    assert declared_ports(loading) == {0, 1, 63, 64, 5432, 65535}
    install(maps, tables_of(64, 8080))
    assert declared_ports(loading) == {64, 8080}
    install(maps, empty_tables())
    assert declared_ports(loading) == set()


def test_the_numbers_of_ports_come_and_go_with_the_targets_that_are_keyed_by_them(
    loading: Loading, maps: PolicyMaps
) -> None:
    first = install(maps, tables_of(80, 5432))
    install(maps, tables_of(5432))
    for generation, wanted in ((first, {80: 1, 5432: 2}), (first + 1, {5432: 1})):
        inner = abi.U32.unpack(_read(loading, "port_numbers", generation & 1))[0]
        with contextlib.closing(bpf_map.open_map(inner, "port_numbers")) as numbers:
            by_port = abi.PortNumbers.from_buffer_copy(numbers.get(bytes(4)) or b"").of
            assert {port: number for port, number in enumerate(by_port) if number} == wanted


def test_no_program_that_began_under_an_earlier_generation_meets_some_of_the_new_maps(
    loading: Loading, maps: PolicyMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was held up since then would read the slot while its maps are replaced one by one."""
    for _ in range(2):  # one for each slot
        install(maps, tables_of(5432))
    before, waited = _slots(loading), []
    monkeypatch.setattr(policy_maps, "wait_for_programs", lambda: waited.append(_slots(loading)))
    install(maps, tables_of(6379))
    assert waited == [before], "once, when nothing was replaced yet"
    assert _slots(loading) != before


def _slots(loading: Loading) -> dict[str, list[bytes]]:
    return {
        name: [_read(loading, name, slot) for slot in (0, 1)] for name in ("targets", "port_numbers", "sets")
    }


def test_tables_that_do_not_fit_change_nothing_in_force(loading: Loading, maps: PolicyMaps) -> None:
    generation = install(maps, tables_of(5432))
    before = in_force(loading, "targets")
    descriptors = len(os.listdir("/proc/self/fd"))
    too_many = dataclasses.replace(tables_of(6379), sets=(0,) * 20_000)
    with pytest.raises(OSError, match="fill sets"):
        install(maps, too_many)
    assert maps.generation == generation
    assert in_force(loading, "targets") == before
    assert declared_ports(loading) == {5432}
    assert len(os.listdir("/proc/self/fd")) == descriptors, "every inner map was let go of"


def test_what_is_prepared_is_judged_by_by_nobody_until_it_is_put_in_force(
    loading: Loading, maps: PolicyMaps
) -> None:
    generation = install(maps, tables_of(5432))
    before = in_force(loading, "targets")
    maps.prepare(tables_of(6379)).members.close()
    assert (maps.generation, in_force(loading, "targets")) == (generation, before)
    assert declared_ports(loading) == {5432}
    assert install(maps, tables_of(80)) == generation + 1, "another may take its place"
    assert declared_ports(loading) == {80}


def test_reloads_leave_no_descriptor_behind(maps: PolicyMaps) -> None:
    install(maps, tables_of(1))
    before = len(os.listdir("/proc/self/fd"))
    for port in range(10):
        install(maps, tables_of(port))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_name_that_comes_later_joins_the_generation_in_force(loading: Loading, maps: PolicyMaps) -> None:
    fresh = maps.prepare(tables_of(5432))
    maps.put_in_force(fresh)
    fresh.members.add(Dimension.CGROUP, 77, 0b101, FREE)
    fresh.members.close()
    members = Map.from_fd(map_by_id(in_force(loading, "members")), "members")
    sets = Map.from_fd(map_by_id(in_force(loading, "sets")), "sets")
    try:
        assert members.get(abi.MEMBER_KEY.pack(Dimension.CGROUP, 0, 77)) == abi.U32.pack(FREE)
        assert (sets.get(abi.U32.pack(FREE)) or b"")[0] == 0b101
    finally:
        members.close()
        sets.close()


def test_the_seed_is_drawn_once_for_as_long_as_the_pins_live(loading: Loading, maps: PolicyMaps) -> None:
    seed = maps.ensure_seed()
    assert seed
    with closing(PolicyMaps(loading.pins)) as again:
        assert again.ensure_seed() == seed


def test_tuning_keeps_the_seed(maps: PolicyMaps) -> None:
    seed = maps.ensure_seed()
    maps.tune(host_netns=12, edges=True, flow_events=False)
    settings = maps.settings
    assert (settings.seed, settings.host_netns, settings.edges, settings.flow_events) == (seed, 12, 1, 0)


def per_cpu(*values: int) -> bytes:
    """A value for each CPU, the rest zero."""
    cpus = libbpf.possible_cpus()
    return b"".join(abi.U64.pack(value) for value in (*values, *[0] * cpus)[:cpus])


def test_a_counter_is_the_sum_over_every_cpu(loading: Loading, counters: Counters) -> None:
    counts = loading.pins.open_map("counts")
    key = abi.CountKey(target=3, decision=Decision.ALLOWED, reason=Reason.LICENSED, origin=Origin.REMOTE)
    cpus = libbpf.possible_cpus()
    counts.put(bytes(key), per_cpu(*range(1, cpus + 1)))
    counts.close()
    (attempts,) = counters.attempts()
    assert attempts.count == cpus * (cpus + 1) // 2
    assert (attempts.target, attempts.decision, attempts.origin) == (3, Decision.ALLOWED, Origin.REMOTE)


def test_a_connection_that_was_found_adds_one_to_what_programs_counted(
    loading: Loading, counters: Counters
) -> None:
    counts = loading.pins.open_map("counts")
    key = abi.CountKey(
        target=3,
        decision=Decision.DENIED,
        reason=Reason.EXCLUDED,
        origin=Origin.LOOPBACK,
        protocol=Protocol.TCP,
    )
    counts.put(bytes(key), per_cpu(40))
    counts.close()
    for _ in range(3):
        counters.count_found(VERDICT, Origin.LOOPBACK)
    rows = list(counters.attempts())
    assert {(row.target, row.decision, row.reason, row.origin) for row in rows} == {
        (3, Decision.DENIED, Reason.EXCLUDED, Origin.LOOPBACK)
    }
    assert sorted(row.count for row in rows) == [3, 40], "never the row that programs add to"


def test_opened_and_closed_are_summed_per_target(loading: Loading, counters: Counters) -> None:
    flow_counts = loading.pins.open_map("flow_counts")
    cpus = libbpf.possible_cpus()
    flow_counts.put(abi.U32.pack(3), abi.FLOW_COUNT.pack(5, 2) * cpus)
    flow_counts.close()
    assert counters.opened_closed([3, 4]) == {3: (5 * cpus, 2 * cpus)}
    for _ in range(2):
        counters.count_found_flows(3, closed=1)
    counters.count_found_flows(4, opened=1)
    assert counters.opened_closed([3, 4]) == {3: (5 * cpus, 2 * cpus + 2), 4: (1, 0)}
    assert counters.closed_unseen([3, 4]) == 2


def test_every_loss_and_direction_is_there_from_the_start(counters: Counters) -> None:
    assert counters.losses() == dict.fromkeys(abi.LOSSES, 0)
    assert set(counters.unprotected()) == set(abi.DIRECTIONS)


def test_the_last_target_is_read_as_the_first(loading: Loading, counters: Counters) -> None:
    """More entries than one batch has, from both ends of a per-CPU array and of a plain one."""
    last = abi.MAX_TARGETS
    cpus = libbpf.possible_cpus()
    with closing(loading.pins.open_map("misled")) as misled:
        for target in (0, 1, last):
            misled.put(abi.U32.pack(target), abi.U64.pack(target + 1) * cpus)
        assert len(list(misled.first(last + 1))) == misled.max_entries
        assert [len(list(misled.first(count))) for count in (0, 1, 5)] == [0, 1, 5]
    counters.count_found_flows(last, opened=7, closed=2)
    assert counters.misled(range(last + 1)) == {0: cpus, 1: 2 * cpus, last: (last + 1) * cpus}
    assert counters.misled([1]) == {1: 2 * cpus}
    assert counters.opened_closed([1, last]) == {last: (7, 2)}
    assert counters.closed_unseen([last]) == 2


def test_reading_a_map_gives_every_row_once_however_many(loading: Loading, counters: Counters) -> None:
    flows = counters.flows
    value = bytes(flows.value_size)
    cookies = range(1, 10_001)
    flows.put_all([(abi.U64.pack(cookie), value) for cookie in cookies])
    found = [abi.U64.unpack(key)[0] for key, _ in flows.items()]
    assert sorted(found) == list(cookies)
    assert flows.remove(abi.U64.pack(1))
    assert not flows.remove(abi.U64.pack(1))
    assert flows.get(abi.U64.pack(1)) is None


def test_a_row_that_is_there_is_not_overwritten_by_noexist(counters: Counters) -> None:
    key, value = abi.U64.pack(5), bytes(counters.flows.value_size)
    counters.flows.put(key, value, 1)
    with pytest.raises(OSError, match="update flows") as caught:
        counters.flows.put(key, value, 1)
    assert caught.value.errno == errno.EEXIST


def test_threads_that_change_different_settings_lose_none(maps: PolicyMaps) -> None:
    """One switches a gate on while the loop reloads: without a gate's bit, it would refuse nothing."""
    lost: list[object] = []

    def switch_gates() -> None:
        for number in range(1500):
            wanted = ("connect",) if number % 2 else ("tc",)
            maps.set_gates(wanted)
            if maps.gates != wanted:
                lost.append(wanted)

    thread = threading.Thread(target=switch_gates)
    thread.start()
    number = 0
    while thread.is_alive():
        number += 1
        maps.tune(host_netns=number, edges=False, flow_events=False)
        if maps.settings.host_netns != number:
            lost.append(number)
    assert lost == []
    maps.set_gates(())


def test_the_ring_is_read_in_parts_so_that_nobody_keeps_the_reader_busy_for_ever(
    loading: Loading, counters: Counters
) -> None:
    reader = RingReader(counters.ring.fd)
    while reader.drain():
        pass
    many = RECORDS_AT_ONCE + 300
    listen = f"""
import socket
for _ in range({many}):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
"""
    loading.lab.call(loading.lab.container, [sys.executable, "-c", listen])
    parts = []
    while part := reader.drain():
        parts.append(len(part))
        assert select.select([reader.fileno()], [], [], 0)[0] or sum(parts) >= many
    assert parts[0] == RECORDS_AT_ONCE
    assert sum(parts) >= many
    loading.lab.call(loading.lab.container, [sys.executable, "-c", listen])
    assert len(reader.drain_all()) >= many, "what an upgrade carries on is all that waits"
    assert counters.losses()["ring_full"] == 0
    reader.close()


def test_rows_of_listeners_are_changed_beside_programs_that_change_them(counters: Counters) -> None:
    """The thread stands for the programs. It has the last word, whatever a look does meanwhile."""
    rows = ListenerRows(counters.owners, counters.more_strangers, counters.more_owners, counters.crowded)
    place = bytes(abi.OwnerKey(netns=1, port=9))
    last, done = 20000, threading.Event()

    def programs() -> None:
        for cookie in range(1, last + 1):
            counters.owners.put(place, bytes(abi.ListenerOwner(cookie=cookie)))
        done.set()

    listening = threading.Thread(target=programs)
    listening.start()
    looks = 0
    while not done.is_set():
        seen = rows.seen(place)
        if seen is not None:
            rows.put(place, seen, abi.ListenerOwner(cookie=seen.row.cookie, stranger_to=1, since_ns=looks))
        looks += 1
    listening.join()
    now = rows.seen(place)
    assert now is not None
    assert (now.row.cookie, looks > 100) == (last, True)
    rows.forget(place, now)
    assert rows.seen(place) is None
