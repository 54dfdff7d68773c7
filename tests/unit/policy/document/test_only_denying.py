"""Documents that can only deny: they take no room, and nothing is asked of anybody for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.license.report import DocumentReport, State
from agent.license.values import LicenseDocument
from agent.policy.document.join import join
from tests.unit.policy.document.test_join import DAY, NOW, policy, report, warnings

EIGHT = tuple(f"p{number}" for number in range(8))
BASE = policy(principals={name: [{"uid": number}] for number, name in enumerate((*EIGHT, "app"))})
DENYING = [
    State.REVOKED,
    State.SUPERSEDED,
    State.NODE_MISMATCH,
    State.CLOCK_ROLLBACK,
    State.EXPIRED,
]


def denying(number: int, state: State, *more: str, **changes: object) -> DocumentReport:
    made = report(f"old{number}.json", state, (*EIGHT, *more), **changes)
    if state is not State.EXPIRED:
        return made
    assert isinstance(made.document, LicenseDocument)
    return replace(made, document=replace(made.document, expires_at=NOW - DAY, terminates_at=NOW - DAY))


@pytest.mark.parametrize("state", DENYING)
@pytest.mark.parametrize("more", [(), ("gone",)], ids=["names", "undefined_names"])
def test_twenty_that_only_deny_are_no_finding(state: State, more: tuple[str, ...]) -> None:
    past = [denying(number, state, *more) for number in range(20)]
    joined = join(BASE, [report("now.json", id="now"), *past], NOW)
    assert joined.left_out == {}
    assert "old" not in warnings(joined)
    assert "now" in [one.id for one in joined.policy.licenses]


@pytest.mark.parametrize("state", DENYING)
def test_one_for_a_product_that_is_gone_is_no_finding(state: State) -> None:
    assert "old" not in warnings(join(BASE, [denying(1, state, product="gone")], NOW))


@pytest.mark.parametrize("state", [State.VALID, State.GRACE, State.NOT_YET_VALID])
def test_one_that_can_grant_is_still_told(state: State) -> None:
    joined = join(BASE, [report("a.json"), report("b.json", state, (*EIGHT, "gone"))], NOW)
    assert "9 grants, 8 are the most" in joined.left_out["b.json"]
    assert "b.json: left out" in warnings(joined)
    assert "'gone', which the policy does not define" in warnings(joined)
