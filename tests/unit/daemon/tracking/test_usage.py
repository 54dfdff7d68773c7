from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import Any

import pytest

from agent import abi
from agent.daemon.tracking import use_records
from agent.daemon.tracking.consumers import NAMED_CONSUMERS, ConsumerLabels, consumer_name, name_of
from agent.daemon.tracking.past_uses import HOUR_NS, PastUse
from agent.daemon.tracking.usage import CROWDED_IDLE_NS, IDLE_NS, Attempt, Usage
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import use_of
from agent.model import Address, Container, Decision, Origin, Process, Protocol, Reason, to_address
from tests.unit.daemon.worlds import (
    DB,
    ELSEWHERE,
    HERE,
    GoneProcesses,
    MemoryCounters,
    Unresolvable,
    new_names,
    numbered,
)

NOW_NS = 5_000_000_000


def use_key(number: int = 0, *, decision: Decision = Decision.DENIED, target: int = 1) -> abi.UseKey:
    """`number` tells consumers apart."""
    return abi.UseKey(
        exe=100 + number,
        uid=number,
        target=target,
        decision=decision,
        reason=Reason.UNLICENSED_PRINCIPAL if decision is Decision.DENIED else Reason.LICENSED,
        origin=Origin.LOOPBACK,
        protocol=Protocol.TCP,
    )


def event_of(key: abi.UseKey, *, pid: int = 7, comm: bytes = b"psql", time_ns: int = NOW_NS) -> abi.UseEvent:
    event = abi.UseEvent(
        header=abi.EventHeader(time_ns=time_ns, type=abi.EventType.USE),
        key=key,
        consumer=abi.Identity(pid=pid, exe=key.exe, uid=key.uid),
        verdict=abi.Verdict(
            target=key.target,
            grant=3,
            decision=key.decision,
            reason=key.reason,
            origin=key.origin,
            protocol=key.protocol,
        ),
        source=abi.RawAddress.of(ELSEWHERE),
        destination=abi.RawAddress.of(HERE),
        port=5432,
        groups=1,
        comm=comm,
    )
    event.gids[0] = 44
    return event


class World:
    """The kernel's side: rows that count, and the events it sends."""

    def __init__(self) -> None:
        self.counters = MemoryCounters()
        self.names: Names = new_names()
        self.attributor = GoneProcesses()
        self.usage = self.daemon()

    def daemon(self) -> Usage:
        """A daemon that starts now, on the maps as they are."""
        return Usage(self.counters, self.names, self.attributor, numbered(), Unresolvable())  # type: ignore[arg-type]

    def attempts(
        self,
        key: abi.UseKey,
        count: int,
        *,
        pid: int = 7,
        first_ns: int = NOW_NS,
        last_ns: int = NOW_NS,
        source: Address = ELSEWHERE,
    ) -> None:
        """The row of this consumer stands at `count` now."""
        row = abi.Use(
            attempts=count,
            first_ns=first_ns,
            last_ns=last_ns,
            first=abi.Identity(pid=pid, exe=key.exe, uid=key.uid),
            verdict=abi.Verdict(target=key.target, grant=3),
            source=abi.RawAddress.of(source),
            destination=abi.RawAddress.of(HERE),
            port=5432,
            comm=f"c{key.uid}".encode(),
        )
        self.counters.uses.put(bytes(key), bytes(row))

    def repeats(self, now_ns: int = NOW_NS, usage: Usage | None = None) -> list[Attempt]:
        return [one for one in (usage or self.usage).look(now_ns) if one is not None]


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_attempt_is_told_with_its_consumer(world: World) -> None:
    attempt = world.usage.first_attempt(event_of(use_key()))
    assert attempt is not None
    assert (attempt.target, attempt.new, attempt.since_boot_ns) == (DB, 1, NOW_NS)
    assert attempt.consumer is not None
    assert (attempt.consumer.pid, attempt.consumer.comm) == (7, "psql")
    assert (attempt.use.destination, attempt.use.port, attempt.use.verdict.grant) == (HERE, 5432, 3)
    assert world.attributor.asked[0][2] == (44,)


def test_two_events_for_one_consumer_are_told_once(world: World) -> None:
    assert world.usage.first_attempt(event_of(use_key())) is not None
    assert world.usage.first_attempt(event_of(use_key(), pid=8)) is None


def test_an_event_of_a_target_without_a_name_is_not_told(world: World) -> None:
    assert world.usage.first_attempt(event_of(use_key(target=99))) is None


def test_a_remote_consumer_is_no_process(world: World) -> None:
    attempt = world.usage.first_attempt(event_of(use_key(), pid=0))
    assert attempt is not None
    assert attempt.consumer is None
    assert attempt.use.source == ELSEWHERE


def test_a_consumer_that_came_once_is_not_summarised(world: World) -> None:
    world.usage.first_attempt(event_of(use_key()))
    world.attempts(use_key(), 1)
    assert world.repeats() == []


def test_repeats_are_told_as_what_was_added_since(world: World) -> None:
    world.usage.first_attempt(event_of(use_key()))
    world.attempts(use_key(), 10)
    (first,) = world.repeats(NOW_NS + 1)
    world.attempts(use_key(), 25)
    (second,) = world.repeats(NOW_NS + 2)
    assert [(first.new, first.since_boot_ns), (second.new, second.since_boot_ns)] == [
        (9, NOW_NS),
        (15, NOW_NS + 1),
    ]
    assert second.use.attempts == 25
    assert world.repeats() == []


def test_what_the_ring_lost_is_told_by_the_next_summary(world: World) -> None:
    world.attempts(use_key(), 4)
    (attempt,) = world.repeats()
    assert (attempt.new, attempt.use.attempts) == (4, 4)
    assert attempt.consumer is not None
    assert attempt.consumer.comm == "c0"


def test_everything_told_adds_up_to_what_was_counted(world: World) -> None:
    told = 0
    for number, count in enumerate((1, 1, 7, 7, 30)):
        if number == 0 and world.usage.first_attempt(event_of(use_key())) is not None:
            told += 1
        world.attempts(use_key(), count)
        told += sum(attempt.new for attempt in world.repeats(NOW_NS + number))
    assert told == 30


def test_a_restarted_daemon_goes_on_where_the_last_one_stopped(world: World) -> None:
    world.usage.first_attempt(event_of(use_key()))
    world.attempts(use_key(), 10)
    world.repeats(NOW_NS + 1)
    world.attempts(use_key(), 12)
    again = world.daemon()
    assert again.first_attempt(event_of(use_key())) is None
    (attempt,) = world.repeats(NOW_NS + 2, again)
    assert (attempt.new, attempt.since_boot_ns) == (2, NOW_NS + 1)


def test_the_name_of_an_executable_that_came_later_is_used(world: World) -> None:
    exe = world.names.note("/usr/bin/psql")
    fresh = new_names()
    world.names = fresh
    usage = world.daemon()
    key = use_key()
    key.exe = exe
    usage.first_attempt(event_of(key))
    world.attempts(key, 5)
    fresh.note("/usr/bin/psql")
    (attempt,) = world.repeats(usage=usage)
    assert attempt.consumer is not None
    assert attempt.consumer.exe == "/usr/bin/psql"


def test_an_idle_row_makes_room_and_its_count_stays(world: World) -> None:
    world.usage.first_attempt(event_of(use_key()))
    world.attempts(use_key(), 3)
    world.repeats()
    before = dict(world.usage.violations_by_consumer())
    world.repeats(NOW_NS + IDLE_NS + 1)
    assert world.counters.uses.rows == {}
    assert world.counters.told.rows == {}
    assert dict(world.usage.violations_by_consumer()) == before == {("db", "psql"): 3}


def test_a_consumer_that_comes_back_after_its_row_was_let_go_is_told_again(world: World) -> None:
    world.usage.first_attempt(event_of(use_key()))
    world.attempts(use_key(), 3)
    world.repeats()
    world.repeats(NOW_NS + IDLE_NS + 1)
    assert world.usage.first_attempt(event_of(use_key())) is not None
    world.attempts(use_key(), 1)
    assert world.repeats() == []
    assert dict(world.usage.violations_by_consumer()) == {("db", "psql"): 4}


def test_a_row_with_something_untold_is_not_let_go_of(world: World) -> None:
    world.attempts(use_key(), 3)
    assert len(world.repeats(NOW_NS + IDLE_NS + 1)) == 1
    assert len(world.counters.uses.rows) == 1


def test_only_denied_attempts_are_violations(world: World) -> None:
    world.attempts(use_key(1), 5)
    world.attempts(use_key(2, decision=Decision.ALLOWED), 50)
    assert dict(world.usage.violations_by_consumer()) == {("db", "c1"): 5}


def test_the_first_executables_have_names_and_the_rest_are_other(world: World) -> None:
    for number in range(NAMED_CONSUMERS):
        world.attempts(use_key(number), 2)
    found = world.usage.violations_by_consumer()
    assert len(found) == NAMED_CONSUMERS // 2 + 1
    assert found["db", "other"] == NAMED_CONSUMERS
    assert found["db", "c0"] == 2


def test_whoever_makes_up_names_of_executables_takes_no_place_of_a_unit() -> None:
    labels = ConsumerLabels()
    for number in range(10_000):
        labels.of(Process(comm=f"made-up-{number}"))
    units = [labels.of(Process(unit=f"u{number}.service")) for number in range(NAMED_CONSUMERS)]
    assert units[0] == "u0.service"
    assert labels.of(None) == "remote"
    assert labels.of(Process(container=Container("c" * 64, name="web", known=True))) == "other"
    found = {labels.of(Process(comm=f"made-up-{number}")) for number in range(10_000)} | set(units)
    assert len(found | {"remote"}) == NAMED_CONSUMERS + 1
    assert "other" in found
    assert labels.of(Process(unit="u0.service")) == "u0.service"


def test_what_an_ended_daemon_left_without_a_row_is_let_go_of(world: World) -> None:
    for number in range(20):
        world.counters.told.put(bytes(use_key(number)), abi.TOLD.pack(1, NOW_NS))
    world.attempts(use_key(3), 1)
    usage = world.daemon()
    world.repeats(usage=usage)
    world.repeats(usage=usage)
    assert list(world.counters.told.rows) == [bytes(use_key(3))]


def test_an_event_that_is_read_after_its_row_is_gone_leaves_nothing(world: World) -> None:
    assert world.usage.first_attempt(event_of(use_key())) is not None
    world.repeats()
    world.repeats()
    assert world.counters.told.rows == {}
    assert world.usage.first_attempt(event_of(use_key())) is not None, "it comes back: told again"


def test_a_row_is_not_let_go_of_while_a_thread_adds_up(world: World) -> None:
    """Else it would be in neither part of the sum, and the counter would go back."""
    world.attempts(use_key(), 3)
    world.repeats()
    with world.usage._moving:
        world.repeats(NOW_NS + IDLE_NS + 1)
    assert len(world.counters.uses.rows) == 1
    world.repeats(NOW_NS + IDLE_NS + 1)
    assert world.counters.uses.rows == {}
    assert dict(world.usage.violations_by_consumer()) == {("db", "c0"): 3}


def test_a_full_map_of_what_was_told_is_not_the_end_of_an_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(key: bytes, value: bytes) -> None:
        raise OSError(errno.E2BIG, "update told")

    monkeypatch.setattr(world.counters.told, "put", full)
    assert world.usage.first_attempt(event_of(use_key())) is not None


def test_a_named_consumer_keeps_its_name_when_others_come(world: World) -> None:
    world.attempts(use_key(0), 2)
    world.usage.violations_by_consumer()
    for number in range(1, NAMED_CONSUMERS + 20):
        world.attempts(use_key(number), 1)
    world.attempts(use_key(0), 9)
    assert world.usage.violations_by_consumer()["db", "c0"] == 9


def since(world: World, boot_ns: int) -> dict[str, PastUse]:
    return {name_of(one.use, one.consumer): one for one in world.usage.since(boot_ns)}


def test_uses_are_known_by_consumer_allowed_ones_too(world: World) -> None:
    world.attempts(use_key(1), 5)
    world.attempts(use_key(2, decision=Decision.ALLOWED), 50)
    world.attempts(use_key(3), 2, last_ns=NOW_NS - 1)
    world.attempts(use_key(4, target=99), 2)
    found = since(world, NOW_NS)
    assert {name: (one.target, one.use.attempts) for name, one in found.items()} == {
        "c1": (DB, 5),
        "c2": (DB, 50),
    }
    assert (found["c1"].use.verdict.reason, found["c1"].use.port) == (Reason.UNLICENSED_PRINCIPAL, 5432)


def test_a_remote_consumer_is_known_by_its_network(world: World) -> None:
    key = use_key()
    key.source = abi.RawAddress.of(to_address("10.9.9.0"))
    world.attempts(key, 3, pid=0)
    assert list(since(world, 0)) == ["10.9.9.0/24"]


@pytest.mark.parametrize("decision", [Decision.DENIED, Decision.ALLOWED])
def test_a_use_is_remembered_for_an_hour_without_its_row(world: World, decision: Decision) -> None:
    world.attempts(use_key(1, decision=decision), 5)
    world.repeats()
    world.repeats(NOW_NS + IDLE_NS + 1)
    assert world.counters.uses.rows == {}
    assert since(world, NOW_NS)["c1"].use.attempts == 5
    assert since(world, NOW_NS + 1) == {}
    later_ns = NOW_NS + 2 * IDLE_NS
    world.attempts(use_key(1, decision=decision), 2, last_ns=later_ns)
    assert sum(one.use.attempts for one in world.usage.since(NOW_NS)) == 7
    world.repeats(later_ns)
    world.repeats(later_ns + IDLE_NS + 1)
    (one,) = world.usage.since(NOW_NS)
    assert (one.use.attempts, one.use.first_boot_ns, one.use.last_boot_ns) == (7, NOW_NS, later_ns)


def test_what_came_more_than_an_hour_before_is_not_added_up(world: World) -> None:
    key = use_key(1)
    world.attempts(key, 5)
    world.repeats()
    world.repeats(NOW_NS + IDLE_NS + 1)
    later_ns = NOW_NS + HOUR_NS + 1
    world.attempts(key, 2, last_ns=later_ns, first_ns=later_ns)
    world.repeats(later_ns)
    world.repeats(later_ns + IDLE_NS + 1)
    (one,) = world.usage.since(NOW_NS)
    assert (one.use.attempts, one.use.first_boot_ns) == (2, later_ns)


def stored(usage: Usage, since_ns: int = 0) -> tuple[list[Any], list[Any]]:
    """As the daemon that comes after reads them."""
    text = json.dumps([[use_records.to_json(one) for one in part] for part in usage.to_keep(since_ns)])
    gone, rows = json.loads(text)
    return gone, rows


def test_a_later_daemon_knows_who_it_was_whether_the_row_is_there_or_not(world: World) -> None:
    world.usage.first_attempt(event_of(use_key(1)))
    world.attempts(use_key(1), 3)
    world.attempts(use_key(2), 5)
    world.repeats()
    gone, rows = stored(world.usage)
    assert (len(gone), len(rows)) == (0, 2)
    del world.counters.uses.rows[bytes(use_key(2))]
    world.usage = world.daemon()
    world.usage.restore(use_records.readable(gone), use_records.readable(rows))
    found = since(world, NOW_NS)
    assert {name: one.use.attempts for name, one in found.items()} == {"psql": 3, "c2": 5}
    consumer = found["psql"].consumer
    assert consumer is not None
    assert (consumer.uid, consumer.comm) == (1, "psql")


@pytest.mark.parametrize(
    "spoil",
    [
        {"key": "00"}, {"key": "ff" * 72}, {"key": 3}, {"attempts": "many"}, {"attempts": None},
        {"target": "db"}, {"target": ["db", "none"]}, {"target": ["db"]}, {"source": "x"}, {"source": 3},
        {"consumer": []},
        {"consumer": {"uid": "root"}}, {"consumer": {"gids": [[]]}}, {"consumer": {"container": 4}},
        {"consumer": {"shoe": 43}}, {"consumer": {"container": {"id": 4}}}, {"first_ns": 1.5},
    ],
)  # fmt: skip
def test_a_stored_use_that_is_damaged_is_left_out(world: World, spoil: dict[str, object]) -> None:
    world.attempts(use_key(1), 3)
    world.attempts(use_key(2), 4)
    _, (bad, good) = stored(world.usage)
    assert [one.use.attempts for one in use_records.readable([{**bad, **spoil}, good])] == [4]
    assert list(use_records.readable({"a": 1})) == []


def test_all_that_is_known_of_a_consumer_is_stored_but_his_arguments() -> None:
    container = Container("c" * 64, "docker", "web", "img:1", "pod", "ns", known=True)
    process = Process(
        pid=7, start_boot_ns=9, comm="a", exe="/a\udcff", args=("--password", "x"), uid=0, user="root",
        gid=0, gids=(0, 27), cgroup_id=8, cgroup="/a", unit="a.service", container=container, netns=3,
        exe_untrusted=True, in_pid_namespace=True, exe_elsewhere=True, user_owners=(1001,), is_whole=True,
    )  # fmt: skip
    use = use_of(bytes(use_key(1)), bytes(abi.Use(attempts=3)), new_names())
    text = json.dumps(use_records.to_json(PastUse(use, DB, process)))
    assert "password" not in text
    (one,) = use_records.readable([json.loads(text)])
    assert one.consumer == replace(process, args=())


def test_what_is_older_than_an_hour_is_not_kept(world: World) -> None:
    world.attempts(use_key(1), 3)
    world.repeats()
    world.repeats(NOW_NS + IDLE_NS + 1)
    world.attempts(use_key(2), 3)
    assert stored(world.usage, NOW_NS + 1) == ([], [])
    assert {name_of(one.use, one.consumer) for one in world.usage.since(0)} == {"c2"}


@pytest.mark.parametrize(
    ("consumer", "name"),
    [
        (None, "remote"),
        (Process(), "unknown"),
        (Process(comm="sh"), "sh"),
        (Process(comm="thread-1", exe="/bin/sh"), "sh"),
        (Process(exe="/bin/sh", container=Container("0123456789abcdef")), "0123456789ab"),
        (Process(exe="/bin/sh", container=Container("0123456789ab"), unit="app.service"), "app.service"),
        (Process(container=Container("1", name="web", known=True), unit="docker-1.scope"), "web"),
    ],
)
def test_a_consumer_is_labelled_by_the_steadiest_name_it_has(consumer: Process | None, name: str) -> None:
    assert consumer_name(consumer) == name


def told_in_kernel(world: World, key: abi.UseKey, count: int) -> None:
    """The row, whose event waits in the ring."""
    world.attempts(key, count)
    row = abi.Use.from_buffer_copy(world.counters.uses.get(bytes(key)) or b"")
    row.told = 1
    world.counters.uses.put(bytes(key), bytes(row))


def test_a_row_whose_event_waits_in_the_ring_is_left_to_that_event(world: World) -> None:
    told_in_kernel(world, use_key(), 3)
    assert world.repeats() == []
    assert world.usage.first_attempt(event_of(use_key())) is not None
    (attempt,) = world.repeats(NOW_NS + 1)
    assert (attempt.new, attempt.is_first) == (2, False)


def test_an_event_that_never_comes_is_awaited_for_one_look(world: World) -> None:
    told_in_kernel(world, use_key(), 3)
    assert world.repeats() == []
    (attempt,) = world.repeats(NOW_NS + 1)
    assert (attempt.new, attempt.is_first) == (3, True)
    assert world.repeats(NOW_NS + 2) == []


def many(
    use_of: abi.UseOf, *, uid: int = 0, origin: Origin = Origin.LOOPBACK, source: str = "::"
) -> abi.UseKey:
    key = use_key()
    key.exe, key.uid, key.use_of, key.origin = 0, uid, use_of, origin
    key.source = abi.RawAddress.of(to_address(source))
    return key


def test_a_row_of_many_names_none_of_them(world: World) -> None:
    key = many(abi.UseOf.MANY, uid=1002)
    first = world.usage.first_attempt(event_of(key))
    assert first is not None
    assert first.consumer is not None
    assert first.consumer.pid == 7  # whoever came first is told as he is
    world.attempts(key, 50)
    (attempt,) = world.repeats(NOW_NS + 1)
    assert attempt.consumer is not None
    assert (attempt.consumer.pid, attempt.consumer.uid, attempt.consumer.comm) == (0, 1002, "")
    assert dict(world.usage.violations_by_consumer()) == {("db", "other"): 50}
    assert list(since(world, 0)) == ["others of user 1002"]
    assert world.usage.consumers() == []


@pytest.mark.parametrize(
    ("use_of", "source", "named"),
    [
        (abi.UseOf.ONE, "10.9.9.0", "10.9.9.0/24"),
        (abi.UseOf.MANY, "10.9.0.0", "10.9.0.0/16"),
        (abi.UseOf.MANY, "fd00:1:2::", "fd00:1:2::/48"),
        (abi.UseOf.OTHERS, "::", "other networks"),
    ],
)
def test_networks_are_named_as_wide_as_they_are(
    world: World, use_of: abi.UseOf, source: str, named: str
) -> None:
    key = many(use_of, origin=Origin.REMOTE, source=source)
    world.attempts(key, 9, pid=0, source=to_address(source))
    assert list(since(world, 0)) == [named]


def shared(world: World, count: int, *, share: int, first: int = 0, last_ns: int = NOW_NS) -> None:
    for number in range(first, first + count):
        world.attempts(use_key(number), 1, last_ns=last_ns)
        key = bytes(use_key(number))
        row = abi.Use.from_buffer_copy(world.counters.uses.get(key) or b"")
        row.share = share
        world.counters.uses.put(key, bytes(row))


def counted(world: World) -> dict[int, int]:
    pairs = world.counters._use_counts.items()
    return {abi.U32.unpack(key)[0]: abi.U64.unpack(value)[0] for key, value in pairs if any(value)}


def test_rows_are_counted_by_side_and_share_without_those_let_go_of(world: World) -> None:
    shared(world, 3, share=17)
    shared(world, 2, share=18, first=10)
    world.repeats()
    assert counted(world) == {0: 5, 17: 3, 18: 2}
    shared(world, 2, share=18, first=10, last_ns=NOW_NS + IDLE_NS)
    world.repeats(NOW_NS + IDLE_NS + 1)
    assert counted(world) == {0: 2, 18: 2}
    assert world.repeats(NOW_NS + 2 * IDLE_NS + 2) == []
    assert counted(world) == {}


def test_a_row_that_is_let_go_of_when_it_is_first_seen_counts_no_more(world: World) -> None:
    world.repeats()
    world.attempts(use_key(target=99), 1)  # nobody is told of a target without a name
    world.counters._use_counts.put(abi.U32.pack(0), abi.U64.pack(1))  # as the kernel does when it makes it
    world.repeats(NOW_NS + IDLE_NS + 1)
    assert counted(world) == {}


def test_rows_that_programs_make_while_others_are_read_are_counted(world: World) -> None:
    """Reading 12,000 takes a while: what came meanwhile must not look as if there were room for it."""
    shared(world, 3, share=17)
    look = world.usage.look(NOW_NS)
    next(look)
    world.counters._use_counts.put(abi.U32.pack(0), abi.U64.pack(2))
    world.counters._use_counts.put(abi.U32.pack(18), abi.U64.pack(2))
    world.attempts(use_key(77), 1, first_ns=NOW_NS + 1, last_ns=NOW_NS + 1)
    assert len(list(look)) >= 2
    assert counted(world) == {0: 5, 17: 3, 18: 2}


def test_who_comes_back_while_others_are_read_keeps_the_row(world: World) -> None:
    for number in (1, 2):
        world.attempts(use_key(number), 3)
    world.repeats()
    look = world.usage.look(NOW_NS + IDLE_NS + 1)
    assert [next(look), next(look)] == [None, None]
    world.attempts(use_key(2), 4, last_ns=NOW_NS + IDLE_NS + 2)
    assert list(look) == [None, None]
    assert list(world.counters.uses.rows) == [bytes(use_key(2))]
    assert dict(world.usage.violations_by_consumer()) == {("db", "c1"): 3, ("db", "c2"): 4}


def test_where_a_share_is_scarce_its_rows_are_soon_free_and_others_stay(world: World) -> None:
    world.counters.uses.max_entries = world.counters.told.max_entries = 4000
    shared(world, abi.USES_OF_SHARE // 2 + 1, share=17)
    shared(world, 3, share=18, first=2000)
    world.repeats()
    world.repeats(NOW_NS + CROWDED_IDLE_NS + 1)
    assert counted(world) == {0: 3, 18: 3}
