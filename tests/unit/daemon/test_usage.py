from __future__ import annotations

import pytest

from agent.daemon.usage import (
    IDLE_NS,
    NAMED_CONSUMERS,
    REMEMBERED,
    REMEMBERED_NS,
    Attempt,
    Usage,
    consumer_name,
)
from agent.kernel import abi
from agent.kernel.records import Names
from agent.model import Container, Decision, Origin, Process, Protocol, Reason, to_address
from tests.unit.daemon.worlds import DB, ELSEWHERE, HERE, TARGETS, MemoryCounters, completed, new_names

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
        self.completed: list[tuple[Process, str, tuple[int, ...]]] = []
        self.usage = self.daemon()

    def daemon(self) -> Usage:
        """A daemon that starts now, on the maps as they are."""
        return Usage(self.counters, self.names, self._complete, TARGETS.get)

    def _complete(self, seen: Process, *, comm: str = "", args: tuple[str, ...] = (), gids=()) -> Process:  # type: ignore[no-untyped-def]
        self.completed.append((seen, comm, tuple(gids)))
        return completed(seen, comm=comm, args=args)

    def attempts(
        self,
        key: abi.UseKey,
        count: int,
        *,
        pid: int = 7,
        first_ns: int = NOW_NS,
        last_ns: int = NOW_NS,
    ) -> None:
        """The row of this consumer stands at `count` now."""
        row = abi.Use(
            attempts=count,
            first_ns=first_ns,
            last_ns=last_ns,
            first=abi.Identity(pid=pid, exe=key.exe, uid=key.uid),
            verdict=abi.Verdict(target=key.target, grant=3),
            source=abi.RawAddress.of(ELSEWHERE),
            destination=abi.RawAddress.of(HERE),
            port=5432,
            comm=f"c{key.uid}".encode(),
        )
        self.counters.uses.put(bytes(key), bytes(row))

    def repeats(self, now_ns: int = NOW_NS, usage: Usage | None = None) -> list[Attempt]:
        return list((usage or self.usage).repeats(now_ns))


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
    assert world.completed[0][2] == (44,)


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


def test_the_first_hundred_consumers_have_names_and_the_rest_are_other(world: World) -> None:
    for number in range(NAMED_CONSUMERS + 20):
        world.attempts(use_key(number), 2)
    found = world.usage.violations_by_consumer()
    assert len(found) == NAMED_CONSUMERS + 1
    assert found["db", "other"] == 40
    assert found["db", "c0"] == 2


def test_a_named_consumer_keeps_its_name_when_others_come(world: World) -> None:
    world.attempts(use_key(0), 2)
    world.usage.violations_by_consumer()
    for number in range(1, NAMED_CONSUMERS + 20):
        world.attempts(use_key(number), 1)
    world.attempts(use_key(0), 9)
    assert world.usage.violations_by_consumer()["db", "c0"] == 9


def test_denied_attempts_are_known_by_consumer(world: World) -> None:
    world.attempts(use_key(1), 5)
    world.attempts(use_key(2, decision=Decision.ALLOWED), 50)
    world.attempts(use_key(3), 2, last_ns=NOW_NS - 1)
    (one,) = world.usage.denied(NOW_NS)
    assert (one.consumer, one.target, one.reason, one.port) == ("c1", DB, Reason.UNLICENSED_PRINCIPAL, 5432)
    assert (one.attempts, one.first_boot_ns, one.last_boot_ns) == (5, NOW_NS, NOW_NS)


def test_a_remote_consumer_is_known_by_its_network(world: World) -> None:
    key = use_key()
    key.source = abi.RawAddress.of(to_address("10.9.9.0"))
    world.attempts(key, 3, pid=0)
    assert [one.consumer for one in world.usage.denied(0)] == ["10.9.9.0/24"]


def test_a_denied_consumer_is_remembered_for_an_hour_without_its_row(world: World) -> None:
    world.attempts(use_key(1), 5)
    world.repeats()
    world.repeats(NOW_NS + IDLE_NS + 1)
    assert world.counters.uses.rows == {}
    assert [(one.consumer, one.attempts) for one in world.usage.denied(NOW_NS)] == [("c1", 5)]
    assert world.usage.denied(NOW_NS + 1) == []
    later_ns = NOW_NS + 2 * IDLE_NS
    world.attempts(use_key(1), 2, last_ns=later_ns)
    assert sum(one.attempts for one in world.usage.denied(NOW_NS)) == 7
    world.repeats(later_ns)
    world.repeats(later_ns + IDLE_NS + 1)
    (one,) = world.usage.denied(NOW_NS)
    assert (one.attempts, one.first_boot_ns, one.last_boot_ns) == (7, NOW_NS, later_ns)


def test_what_came_more_than_an_hour_before_is_not_added_up(world: World) -> None:
    key = use_key(1)
    world.attempts(key, 5)
    world.repeats()
    world.repeats(NOW_NS + IDLE_NS + 1)
    later_ns = NOW_NS + REMEMBERED_NS + 1
    world.attempts(key, 2, last_ns=later_ns, first_ns=later_ns)
    world.repeats(later_ns)
    world.repeats(later_ns + IDLE_NS + 1)
    (one,) = world.usage.denied(NOW_NS)
    assert (one.attempts, one.first_boot_ns) == (2, later_ns)


def test_a_flood_of_consumers_is_remembered_only_so_far(world: World) -> None:
    world.counters.uses.max_entries = world.counters.told.max_entries = 10 * REMEMBERED
    for number in range(REMEMBERED + 50):
        world.attempts(use_key(number), 1)
    world.repeats()
    world.repeats(NOW_NS + IDLE_NS + 1)
    kept = {one.consumer for one in world.usage.denied(0)}
    assert len(kept) == REMEMBERED
    assert f"c{REMEMBERED + 49}" in kept


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
