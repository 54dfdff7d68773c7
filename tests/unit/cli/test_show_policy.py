"""What `licet policy show` and `licet explain` say of grants that a document gives: its file and its kind."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agent.cli.show_policy import policy_json, policy_text
from agent.license.payload import license_from
from agent.license.report import DocumentReport, Standing, State
from agent.model import HostFacts, LocalConsumer, PortClass, Target
from agent.policy.decision.explain import explain
from agent.policy.document.join import join
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.values import Policy
from tests.unit.license.documents import license_raw

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WRITTEN = """\
version: 1
services: {orders: {product: acme-orders, ports: [{port: 5432, class: internal}]}}
principals: {billing: [{uid: 1001}]}
licenses:
  - {id: plain, product: acme-orders, entitlements: [{id: a, principals: [billing]}]}
"""


def joined(state: State, *, verified: bool) -> Policy:
    document = license_from(license_raw(node_lock=None, kind="evaluation"))
    report = DocumentReport("acme.json", document, Standing(state), verified)
    return join(parse_policy(WRITTEN), [report], NOW).policy


@pytest.mark.parametrize(
    ("state", "verified", "line"),
    [
        (State.VALID, True, "billing: acme-2026/app (evaluation), expires_at 2027-01-01T00:00:00Z"),
        (State.REVOKED, True, "billing: acme-2026/app (evaluation), revoked, expires_at 2027"),
        (State.UNKNOWN_KEY, False, "billing: acme-2026/app (not verified), unknown_key, expires_at 2027"),
    ],
)
def test_a_grant_of_a_document_has_its_kind_and_its_file(state: State, verified: bool, line: str) -> None:
    plain, signed = [
        each for each in policy_text(joined(state, verified=verified)).splitlines() if "billing:" in each
    ]
    assert plain.strip() == "billing: plain/a, no end (policy.yaml:5)"
    assert signed.strip().startswith(line)
    assert signed.endswith("(acme.json)")


def test_the_json_tells_documents_from_licenses_of_the_policy() -> None:
    shown = policy_json(joined(State.REVOKED, verified=True))
    names = ("id", "kind", "serial", "issuer", "verified", "state", "place")
    assert [tuple(one[name] for name in names) for one in shown["licenses"]] == [
        ("plain", None, None, None, False, None, "policy.yaml:5"),
        ("acme-2026", "evaluation", 3, "Acme", True, "revoked", "acme.json"),
    ]
    assert [(one["license"], one["kind"], one["place"]) for one in shown["grants"]] == [
        ("plain", None, "policy.yaml:5"),
        ("acme-2026", "evaluation", "acme.json"),
    ]


def test_an_explanation_names_the_kind_and_the_file() -> None:
    policy = joined(State.VALID, verified=True)
    compiled = compile_policy(policy, HostFacts(1, ()), Ids())
    consumer = LocalConsumer(None, 1001, frozenset(), (), 1)
    found = explain(policy, compiled, consumer, Target("orders", PortClass.INTERNAL), 0)
    assert (
        "  acme.json: license acme-2026 (evaluation), entitlement app, principal billing: " in found.to_text()
    )
