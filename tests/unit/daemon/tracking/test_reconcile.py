"""Which ports connections from before have to be looked for at."""

from __future__ import annotations

import pytest

from agent.daemon.tracking.reconcile import _new_ports
from agent.model import HostFacts, to_address
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import Tables

DB = "db: {product: a, ports: [{port: 5432, class: internal}]}"
RANGE = "data: {product: a, ports: [{port: 40000-40009, class: internal}]}"
MOVED = "data: {product: a, ports: [{port: 50000-50009, class: internal}]}"


def compiled(*services: str, addresses: tuple[str, ...] = ("192.0.2.1",)) -> Tables:
    text = "version: 1\nservices:\n" + "".join(f"  {service}\n" for service in services)
    facts = HostFacts(7, tuple(map(to_address, addresses)))
    return compile_policy(parse_policy(text), facts, Ids()).tables


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        ((), (DB,), {5432}),
        ((DB,), (DB,), set()),
        ((DB, RANGE), (DB,), set()),
        ((RANGE,), (MOVED,), set(range(50000, 50010))),
        # what stays has another number: a look too many
        ((RANGE,), (DB, RANGE), {5432, *range(40000, 40010)}),
    ],
)
def test_ports_that_are_declared_anew_are_looked_at(
    before: tuple[str, ...], now: tuple[str, ...], wanted: set[int]
) -> None:
    tables = [compiled(*services) if services else compiled(DB) for services in (before, now)]
    known = (tables[0].numbers, frozenset(tables[0].targets)) if before else ((), frozenset())
    assert set(_new_ports((tables[1].numbers, frozenset(tables[1].targets)), known)) == wanted


def test_a_new_address_is_a_new_place_for_every_port() -> None:
    before, now = compiled(DB, RANGE), compiled(DB, RANGE, addresses=("192.0.2.1", "192.0.2.2"))
    known = (before.numbers, frozenset(before.targets))
    assert set(_new_ports((now.numbers, frozenset(now.targets)), known)) == {5432, *range(40000, 40010)}
