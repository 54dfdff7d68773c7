"""A document that found no room comes into force when the end of another license leaves it some."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agent.license.clock import Moment
from agent.policy.tables.windows import unix_ns
from tests.unit.daemon.reporting.license_world import NOW, Host

ENDS = NOW + timedelta(hours=1)
NAMES = [f"p{number}" for number in range(8)]
POLICY = f"""\
version: 1
services: {{orders: {{product: acme-orders, ports: [{{port: 5432, class: internal}}]}}}}
principals: {{{", ".join(f"{name}: [{{uid: {number}}}]" for number, name in enumerate(NAMES))}}}
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    old = {"expires_at": NOW.isoformat(), "terminates_at": ENDS.isoformat()}
    made.put("old.json", id="old", entitlements=[{"id": "app", "principals": NAMES}], **old)
    made.put("renewal.json", id="renewal", entitlements=[{"id": "app", "principals": ["p0"]}])
    made.load(POLICY)
    return made


def look(host: Host, now: datetime) -> list[str]:
    """The licenses in the tables, after the next look at the host. Its facts are a second old."""
    host.clock.now = Moment(now, now)
    offset_ns = unix_ns(NOW - timedelta(days=1))
    boot_ns = unix_ns(now - timedelta(seconds=1)) - offset_ns
    host.world.facts = replace(host.world.facts, boot_offset_ns=offset_ns, gathered_boot_ns=boot_ns)
    host.keeper.follow_host()
    compiled = host.keeper.compiled
    assert compiled is not None
    (planned,) = compiled.plans.values()
    return list(dict.fromkeys(plan.license.id for plan in planned))


def test_a_renewal_without_room_waits_for_the_end_of_the_old_one(host: Host) -> None:
    assert look(host, ENDS - timedelta(seconds=1)) == ["old"]
    left_out = host.keeper.compiled_from.left_out
    assert "would have 9 grants" in left_out["renewal.json"]
    assert look(host, ENDS) == ["old", "renewal"]
    assert host.keeper.compiled_from.left_out == {}


def test_nothing_is_compiled_again_while_nothing_ends(host: Host) -> None:
    look(host, NOW)
    before = host.keeper.generation
    look(host, ENDS - timedelta(seconds=1))
    assert host.keeper.generation == before
    look(host, ENDS)
    look(host, ENDS + timedelta(hours=1))
    assert host.keeper.generation == before + 1
