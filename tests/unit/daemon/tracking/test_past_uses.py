"""What is remembered of uses is bounded, and nobody's uses push out those of others."""

from __future__ import annotations

import pytest

from agent import abi
from agent.daemon.tracking.consumers import name_of
from agent.daemon.tracking.past_uses import MANY_OF_SIDE, SHARE_BYTES, SIDE_BYTES, PastUse, PastUses
from agent.kernel.tables.rows import Use
from agent.model import Decision, Origin, PortClass, Process, Protocol, Reason, Target, Verdict, to_address

DB = Target("db", PortClass.INTERNAL)


def past(number: int = 0, *, uid: int = 1001, share: int = 17, last_ns: int = 5, target: int = 1) -> PastUse:
    """Of a local consumer; `number` tells executables of one user apart."""
    key = abi.UseKey(
        exe=number, uid=uid, target=target, decision=Decision.ALLOWED, origin=Origin.LOOPBACK, protocol=6
    )
    consumer = Process(pid=9, exe=f"/opt/copy-{number}", uid=uid)
    return PastUse(_use(key, consumer, share, last_ns), DB, consumer)


def remote(source: str, *, share: int) -> PastUse:
    address = to_address(source)
    key = abi.UseKey(target=1, origin=Origin.REMOTE, protocol=6, source=abi.RawAddress.of(address))
    return PastUse(_use(key, None, share, 5, source), DB, None)


def _use(key: abi.UseKey, consumer: Process | None, share: int, last_ns: int, source: str = "::1") -> Use:
    return Use(
        key=bytes(key),
        attempts=1,
        verdict=Verdict(Decision(key.decision), Reason(key.reason), key.target),
        origin=Origin(key.origin),
        protocol=Protocol.TCP,
        consumer=consumer,
        comm="",
        netns=1,
        source=to_address(source),
        source_port=0,
        destination=to_address("127.0.0.1"),
        port=5432,
        first_boot_ns=last_ns,
        last_boot_ns=last_ns,
        told=True,
        share=share,
    )


def names(uses: PastUses) -> dict[str, int]:
    """Attempts by name."""
    return {name_of(one.use, one.consumer): one.use.attempts for one in uses}


def test_a_user_with_17000_different_uses_has_his_share_and_the_rest_are_together() -> None:
    uses = PastUses()
    uses.add(past(1, uid=0, share=1))
    for number in range(17_000):
        uses.add(past(number))
    uses.add(past(2, uid=0, share=1))
    kept = list(uses)
    assert 100 < len(kept) < SHARE_BYTES // 600 + 10
    assert sum(one.use.attempts for one in kept) == 17_002
    assert {one.consumer.exe for one in kept if one.consumer and one.consumer.uid == 0} == {
        "/opt/copy-1",
        "/opt/copy-2",
    }
    assert names(uses)["others of user 1001"] > 16_000


def test_of_many_users_one_takes_the_place_of_none() -> None:
    uses = PastUses()
    for number in range(17_000):
        uses.add(past(number, uid=10_000 + number, share=20 + number % 4000))
    kept = list(uses)
    assert len(kept) < SIDE_BYTES // 600 + MANY_OF_SIDE + 10
    assert sum(one.use.attempts for one in kept) == 17_000
    assert names(uses)["others"] > 10_000
    assert len([one for one in kept if one.use.use_of is abi.UseOf.MANY]) == MANY_OF_SIDE


def test_remote_ones_take_nothing_from_local_ones() -> None:
    uses = PastUses()
    for number in range(17_000):
        uses.add(remote(f"10.{number // 250}.{number % 250}.0", share=1 + number // 250))
    uses.add(past())
    found = names(uses)
    assert found["copy-0"] == 1
    assert found["10.60.0.0/16"] > 1
    assert sum(found.values()) == 17_001


def test_decisions_stay_apart_however_crowded_it_is() -> None:
    uses = PastUses()
    for number in range(5000):
        uses.add(past(number, target=1 + number % 2))
    wide = [one for one in uses if one.use.use_of is not abi.UseOf.ONE]
    assert sorted(one.use.verdict.target for one in wide) == [1, 2]


def test_room_comes_back_when_an_hour_has_passed() -> None:
    uses = PastUses()
    for number in range(5000):
        uses.add(past(number, last_ns=5))
    uses.forget_before(6)
    assert list(uses) == []
    uses.add(past(7, last_ns=8))
    assert names(uses) == {"copy-7": 1}


def test_a_long_path_takes_what_it_is_long() -> None:
    uses = PastUses()
    for number in range(1000):
        one = past(number)
        consumer = Process(pid=9, exe=f"/{number:04}" + 4000 * "x", uid=1001)
        uses.add(PastUse(one.use, DB, consumer))
    assert sum(len(one.consumer.exe) for one in uses if one.consumer) < 2 * SHARE_BYTES


@pytest.mark.parametrize("attempts", [1, 3])
def test_one_alone_among_many_is_still_himself(attempts: int) -> None:
    uses = PastUses()
    number = 0
    while uses.has_room(past(number)):
        uses.add(past(number))
        number += 1
    for more in range(attempts):
        uses.add(past(number + more))
    named = f"copy-{number}" if attempts == 1 else "others of user 1001"
    assert names(uses)[named] == attempts
