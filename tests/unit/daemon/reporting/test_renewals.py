"""Two documents of one license, side by side: what is told names the one that holds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agent.license.clock import Moment
from agent.model import Decision, LocalConsumer
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide
from agent.policy.tables.windows import unix_ns
from tests.unit.daemon.reporting.license_world import DAY, INLINE, NOW, POLICY, Host
from tests.unit.daemon.reporting.test_reporter import Reports, attempt

BEGINS, EXPIRED, ENDS = NOW + DAY, NOW - DAY, NOW + 2 * DAY
BILLING = LocalConsumer(exe="/bin/x", uid=1001, gids=frozenset({9}), cgroups=(), netns=7)
NAMES = ("license", "entitlement", "principal")


@pytest.fixture(params=[("old.json", "new.json"), ("z-old.json", "a-new.json")], ids=["behind", "before"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """The old document is in grace, the renewal has not begun; by file name, either may be the first."""
    made = Host(tmp_path)
    old, new = request.param
    made.put(old, serial=1, kind="evaluation", expires_at=EXPIRED.isoformat(), terminates_at=ENDS.isoformat())
    made.put(new, serial=2, kind="production", starts_at=BEGINS.isoformat())
    made.put("w.json", id="w", product="other", serial=1)
    return made


def judged(host: Host, now: datetime) -> tuple[Decision, dict[str, object]]:
    """The decision at that time, and what its event says."""
    host.clock.now = Moment(now, now)
    offset_ns = unix_ns(NOW - 30 * DAY)
    host.world.facts = replace(
        host.world.facts, boot_offset_ns=offset_ns, gathered_boot_ns=unix_ns(now) - offset_ns
    )
    host.load(POLICY)
    compiled = host.keeper.compiled
    assert compiled is not None
    tables = compiled.tables
    (row,) = tables.rows.values()
    verdict = decide(tables, row, who_is(tables, BILLING), unix_ns(now) - offset_ns)
    reports = Reports()
    reports.keeper.compiled = compiled
    reports.write.first_attempt(attempt(verdict))
    (event,) = reports.events
    return verdict.decision, {name: event[name] for name in ("type", *NAMES)}


NAMED = {"license": "acme-2026", "entitlement": "app", "principal": "billing"}


def test_the_event_of_a_use_names_the_license_before_and_after_the_renewal_begins(host: Host) -> None:
    assert judged(host, NOW) == (Decision.GRACE, {"type": "use", **NAMED})
    assert judged(host, BEGINS) == (Decision.ALLOWED, {"type": "use", **NAMED})


def test_the_event_of_a_violation_names_it_too(host: Host) -> None:
    late = datetime.fromisoformat("2027-03-01T00:00:00+00:00")
    assert judged(host, late) == (Decision.DENIED, {"type": "violation", **NAMED})


def test_labels_are_those_of_the_document_in_force(host: Host) -> None:
    for now, kind, serial in ((NOW, "evaluation", 1), (BEGINS, "production", 2)):
        judged(host, now)
        one = host.reports.now().by_id()["acme-2026"]
        assert (one.kind, one.serial, one.in_force) == (kind, serial, True)


@pytest.mark.parametrize("names", list(itertools.permutations(["a.json", "b.json", "c.json"])))
def test_what_is_used_instead_of_a_license_of_the_policy_is_the_document_that_holds(
    tmp_path: Path, names: tuple[str, str, str]
) -> None:
    host = Host(tmp_path)
    holds, later, older = names
    host.put(holds, id="plain", serial=2)
    host.put(later, id="plain", serial=3, starts_at=(NOW + timedelta(days=3)).isoformat())
    host.put(older, id="plain", serial=1)
    found = host.load(POLICY + INLINE)
    (inline,) = [one for one in found.listed if not one.signed]
    assert f"the document {holds} is used instead" in inline.why
    assert any(f"the document {holds} is used instead" in one.reason for one in host.keeper.warnings)
