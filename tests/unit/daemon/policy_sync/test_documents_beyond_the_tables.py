"""Documents for which the kernel's table of sets has no room: those, and no others, are left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.policy.tables import sets
from tests.unit.daemon.reporting.license_world import Host

NAMES = "pqrs"
PAIRS = "".join(
    f"  {name}: [{{uid: {number}}}, {{uid: {number + 9}}}]\n" for number, name in enumerate(NAMES)
)
POLICY = f"""\
version: 1
services: {{orders: {{product: acme-orders, ports: [{{port: 5432, class: internal}}]}}}}
principals:
{PAIRS}  x: [{{uid: 30, exe: /bin/x}}]
restrictions: [{{exclude: x, target: orders}}]
"""
Leave = Callable[[Host, int], None]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def leave_room(monkeypatch: pytest.MonkeyPatch) -> Leave:
    """Lowers the limit: a table that is really full takes minutes to fill."""

    def leave(host: Host, room: int) -> None:
        host.load(POLICY)
        monkeypatch.setattr(sets, "MAX_SETS", len(host.keeper.compiled.tables.sets) + room)

    return leave


def put(host: Host, name: str, *principals: str) -> None:
    host.put(f"{name}.json", id=name, entitlements=[{"id": "app", "principals": list(principals)}])


def in_tables(host: Host) -> set[str]:
    host.load(POLICY)
    (plans,) = host.keeper.compiled.plans.values()
    found = {plan.license.id for plan in plans}
    left_out = {file.removesuffix(".json") for file in host.keeper.compiled_from.left_out}
    told = {one.place.file.removesuffix(".json") for one in host.keeper.warnings if "left out" in one.reason}
    assert told == left_out
    assert not found & left_out
    return found


@pytest.mark.parametrize(
    ("room", "documents", "fitting"),
    [
        (1, {"a": "p", "b": "qr", "c": "p"}, {"a", "c"}),  # in the middle
        (1, {"a": "qr", "b": "p", "c": "p"}, {"b", "c"}),  # the first
        (2, {"a": "p", "b": "q", "c": "rs"}, {"a", "b"}),  # the last
        (2, {"a": "pqr", "b": "p", "c": "qrs", "d": "s", "e": "q"}, {"b", "d"}),  # several
        (0, {"a": "p", "b": "q"}, set()),
    ],
)
def test_only_what_does_not_fit_is_left_out(
    host: Host, leave_room: Leave, room: int, documents: dict[str, str], fitting: set[str]
) -> None:
    leave_room(host, room)
    for name, principals in documents.items():
        put(host, name, *principals)
    assert in_tables(host) == fitting
    reasons = set(host.keeper.compiled_from.left_out.values())
    assert all("different combinations of selectors" in one for one in reasons)


def test_a_document_that_adds_a_clause_is_counted_with_it(host: Host, leave_room: Leave) -> None:
    """A principal that is excluded as well has clauses of its own once it is licensed."""
    leave_room(host, 0)
    before = len(host.keeper.compiled.tables.sets)
    leave_room(host, 1000)
    put(host, "a", "x")
    assert in_tables(host) == {"a"}
    added = len(host.keeper.compiled.tables.sets) - before
    assert added > 0
    (host.files / "a.json").unlink()
    for room, found in ((added, {"a"}), (added - 1, set())):
        leave_room(host, room)
        put(host, "a", "x")
        assert in_tables(host) == found
        (host.files / "a.json").unlink()


def test_a_document_that_has_not_begun_leaves_the_room_to_one_that_has(host: Host, leave_room: Leave) -> None:
    leave_room(host, 1)
    soon = {"starts_at": "2026-06-02T00:00:00Z"}
    host.put("a.json", id="a", entitlements=[{"id": "app", "principals": ["p"]}], **soon)
    put(host, "b", "q")
    assert in_tables(host) == {"b"}
