"""Each change of a license is told once, when it comes; what has ended before, when it is first seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.daemon.policy_sync.license_watch import LicenseWatch
from agent.license.clock import Moment
from agent.model import HostFacts
from agent.policy.document.load import parse_policy
from agent.policy.validity import Validity
from agent.policy.values import Policy

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def policy(expires: str, more: str = "") -> Policy:
    return parse_policy(f"""
version: 1
services: {{db: {{product: red, ports: [{{port: 5432, class: internal}}]}}}}
licenses:
  - id: acme
    product: red
    expires_at: {expires}
    {more}
    entitlements: [{{id: a, principals: [anyone]}}]
""")


@dataclass
class Keeper:
    policy: Policy | None = None
    facts: HostFacts | None = None


@dataclass
class World:
    keeper: Keeper = field(default_factory=Keeper)
    now: Moment = field(default_factory=lambda: Moment.of(NOON))
    watch: Any = None

    def __post_init__(self) -> None:
        self.watch = LicenseWatch(self.keeper, clock=lambda facts: self.now)  # type: ignore[arg-type]

    def at(self, now: datetime, later: datetime | None = None) -> list[tuple[str, Validity]]:
        """What is told then."""
        self.now = Moment(now, later or now)
        return [(term.license, validity) for term, validity in self.watch.changes()]


@pytest.fixture
def world() -> World:
    return World(Keeper(policy("2026-06-01T13:00:00Z"), HostFacts(1, ())))


def test_an_end_is_told_once(world: World) -> None:
    assert world.at(NOON) == []
    assert world.at(NOON + HOUR - timedelta(seconds=1)) == []
    assert world.at(NOON + HOUR) == [("acme", Validity.EXPIRED)]
    assert world.at(NOON + HOUR) == world.at(NOON + 9 * HOUR) == []


def test_expiry_and_end_are_told_apart(world: World) -> None:
    world.keeper.policy = policy("2026-06-01T13:00:00Z", "terminates_at: 2026-06-01T14:00:00Z")
    assert world.at(NOON) == []
    assert world.at(NOON + HOUR) == [("acme", Validity.GRACE)]
    assert world.at(NOON + 2 * HOUR) == [("acme", Validity.EXPIRED)]


def test_what_ended_while_no_agent_ran_is_told_at_the_first_look(world: World) -> None:
    assert world.at(NOON + 2 * HOUR) == [("acme", Validity.EXPIRED)]


def test_a_renewed_license_is_told_and_a_reload_that_changes_nothing_is_not(world: World) -> None:
    world.at(NOON + 2 * HOUR)
    world.keeper.policy = policy("2026-06-01T13:00:00Z")
    assert world.at(NOON + 2 * HOUR) == []
    world.keeper.policy = policy("2026-06-01T20:00:00Z")
    assert world.at(NOON + 2 * HOUR) == [("acme", Validity.VALID)]
    assert world.at(NOON + 8 * HOUR) == [("acme", Validity.EXPIRED)]


def test_a_clock_that_was_set_back_before_the_end_is_followed(world: World) -> None:
    world.at(NOON + 2 * HOUR)
    assert world.at(NOON) == [("acme", Validity.VALID)]
    assert world.at(NOON + HOUR) == [("acme", Validity.EXPIRED)]


def test_a_license_begins_by_the_later_clock_and_is_told_when_that_is_set_back(world: World) -> None:
    world.keeper.policy = policy("2026-06-01T20:00:00Z", "starts_at: 2026-06-01T13:00:00Z")
    assert world.at(NOON) == []
    assert world.at(NOON, NOON + HOUR) == [("acme", Validity.VALID)]
    assert world.at(NOON, NOON + 9 * HOUR) == []
    assert world.at(NOON) == [("acme", Validity.NOT_YET_VALID)]
    assert world.at(NOON + HOUR) == [("acme", Validity.VALID)]


def test_before_there_is_a_policy_nothing_is_told() -> None:
    assert World().at(NOON) == []
