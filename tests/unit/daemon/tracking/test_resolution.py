"""What an unresolved attempt would have met, judged by what is known of its consumer afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from agent.daemon.tracking.resolution import Resolution
from agent.kernel.tables.rows import Use
from agent.model import Decision, HostFacts, Origin, Process, Protocol, Reason, Verdict
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.shape import Tables
from tests.unit.daemon.worlds import DB, HERE, Modes, numbered

POLICY = """
version: 1
services: {db: {product: acme, ports: [{port: 5432, class: internal}]}}
principals: {billing: [{exe: /opt/billing}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [billing]}]}
"""
FACTS = HostFacts(host_netns=1, addresses=(HERE,), executables=frozenset({"/opt/billing"}))
BILLING = Process(pid=30, start_boot_ns=3, exe="/opt/billing", uid=1000, netns=1)
UNRESOLVED = Verdict(Decision.ALLOWED, Reason.UNRESOLVED, 1)


@dataclass
class Keeper:
    tables: Tables | None


def use(verdict: Verdict = UNRESOLVED) -> Use:
    return Use(
        key=b"", attempts=1, verdict=verdict, origin=Origin.LOOPBACK, protocol=Protocol.TCP, consumer=BILLING,
        comm="", netns=1, source=HERE, source_port=0, destination=HERE, port=5432, first_boot_ns=1,
        last_boot_ns=1, told=True,
    )  # fmt: skip


@pytest.fixture
def resolution() -> Resolution:
    tables = compile_policy(parse_policy(POLICY), FACTS, numbered(DB)).tables
    return Resolution(Keeper(tables), Modes())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("consumer", "decision", "reason"),
    [
        (BILLING, Decision.ALLOWED, Reason.LICENSED),
        (replace(BILLING, exe="/tmp/other"), Decision.DENIED, Reason.UNLICENSED_PRINCIPAL),
        (replace(BILLING, exe_untrusted=True), Decision.DENIED, Reason.UNLICENSED_PRINCIPAL),
    ],
)
def test_who_is_known_now_is_judged_by_what_he_is(
    resolution: Resolution, consumer: Process, decision: Decision, reason: Reason
) -> None:
    found = resolution.of(use(), consumer)
    assert found is not None
    assert (found.decision, found.reason, found.target) == (decision, reason, 1)


def test_what_the_kernel_resolved_stays_as_it_judged(resolution: Resolution) -> None:
    assert resolution.of(use(Verdict(Decision.DENIED, Reason.NO_LICENSE, 1)), BILLING) is None


def test_who_is_not_known_even_now_is_judged_by_nobody(resolution: Resolution) -> None:
    assert resolution.of(use(), None) is None


@pytest.mark.parametrize("target", [1, 2])
def test_a_target_that_left_the_policy_is_judged_by_nobody(resolution: Resolution, target: int) -> None:
    if target == 1:
        resolution = Resolution(Keeper(None), Modes())  # type: ignore[arg-type]
    assert resolution.of(use(replace(UNRESOLVED, target=target)), BILLING) is None
