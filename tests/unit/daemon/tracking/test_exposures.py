"""Ports that were reached from outside their listening scope."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from agent import abi
from agent.daemon.tracking.exposures import REMEMBERED, Exposures
from agent.daemon.tracking.usage import Attempt
from agent.kernel.tables.rows import Use
from agent.model import Decision, Origin, Protocol, Reason, Verdict, to_address
from agent.policy.document.load import parse_policy
from agent.policy.values import Policy
from tests.unit.daemon.worlds import DB, HERE

FROM_FAR = """
version: 1
services: {db: {product: acme, ports: [{port: 5432, class: internal}]}}
"""


@dataclass
class Keeper:
    policy: Policy | None = field(default_factory=lambda: parse_policy(FROM_FAR))


@pytest.fixture
def exposures() -> Exposures:
    return Exposures(Keeper())  # type: ignore[arg-type]


def attempt(
    peer: str = "203.0.113.9",
    decision: Decision = Decision.ALLOWED,
    *,
    enforced: bool = False,
    origin: Origin = Origin.REMOTE,
) -> Attempt:
    source = to_address(peer)
    use = Use(
        key=bytes(abi.UseKey(source=abi.RawAddress.of(source))), attempts=1,
        verdict=Verdict(decision, Reason.NO_LICENSE, 1, enforced=enforced), origin=origin,
        protocol=Protocol.TCP, consumer=None, comm="", netns=1, source=source, source_port=4000,
        destination=HERE, port=5432, first_boot_ns=1, last_boot_ns=1, told=True,
    )  # fmt: skip
    return Attempt(use, DB, None, 1, 1)


@pytest.mark.parametrize(
    ("decision", "enforced", "reached"),
    [(Decision.DENIED, True, False), (Decision.DENIED, False, True), (Decision.ALLOWED, False, True)],
)
def test_who_was_refused_has_not_reached_a_port_from_outside_its_scope(
    exposures: Exposures, decision: Decision, enforced: bool, reached: bool
) -> None:
    assert exposures.is_new(attempt(decision=decision, enforced=enforced)) is reached
    assert exposures.violations.counts() == ({("db", "internal", "exposed_port"): 1} if reached else {})


def test_a_peer_is_new_once_and_another_is_new_again(exposures: Exposures) -> None:
    assert [exposures.is_new(attempt(f"203.0.113.{n}")) for n in (9, 9, 10)] == [True, False, True]
    assert exposures.violations.counts() == {("db", "internal", "exposed_port"): 2}


@pytest.mark.parametrize("one", [attempt("10.1.2.3"), attempt(origin=Origin.CONTAINER)])
def test_who_is_within_the_scope_or_on_this_host_exposes_nothing(exposures: Exposures, one: Attempt) -> None:
    assert not exposures.is_new(one)
    assert exposures.violations.counts() == {}


def test_without_a_policy_nothing_is_exposed() -> None:
    assert not Exposures(Keeper(None)).is_new(attempt())  # type: ignore[arg-type]


def test_peers_without_end_do_not_make_it_grow(exposures: Exposures) -> None:
    for number in range(REMEMBERED + 100):
        exposures.is_new(attempt(f"203.{number >> 8}.{number & 255}.9"))
    assert len(exposures._met) == REMEMBERED
