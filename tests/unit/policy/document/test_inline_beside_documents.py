"""A license of the policy and documents with its id and product: which of them grant, and what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.license.report import DocumentReport, State
from agent.policy.document.join import Joined, join
from tests.unit.policy.document.test_join import DAY, INLINE, NOW, names, policy, report, warnings

BEGINS = {"starts_at": NOW + DAY, "expires_at": NOW + 9 * DAY, "terminates_at": NOW + 9 * DAY}
DENYING = (
    State.REVOKED,
    State.SUPERSEDED,
    State.NODE_MISMATCH,
    State.CLOCK_ROLLBACK,
    State.EXPIRED,
)


def document(state: State, *, has_held: bool = False, **changes: object) -> DocumentReport:
    return replace(report("inline.json", state, **changes), has_held=has_held)


def joined_with(*reports: DocumentReport) -> Joined:
    return join(policy(licenses=[INLINE]), reports, NOW)


def inline_grants(joined: Joined) -> bool:
    return any(one.document is None and one.state is None for one in joined.policy.licenses)


def test_both_stand_side_by_side_until_the_document_begins() -> None:
    joined = joined_with(document(State.NOT_YET_VALID, **BEGINS))
    assert names(joined) == [("inline", None), ("inline", None)]
    assert inline_grants(joined)
    assert "used instead once it has begun (2026-06-02 00:00 UTC) (keep it here until then)" in warnings(
        joined
    )


@pytest.mark.parametrize("state", DENYING)
def test_a_document_that_has_never_held_here_locks_nobody_out(state: State) -> None:
    joined = joined_with(document(state))
    assert inline_grants(joined)
    assert f"the document inline.json is not used: {state}" in warnings(joined)
    assert "remove it here" not in warnings(joined)


@pytest.mark.parametrize("state", DENYING)
def test_the_end_of_a_document_that_has_held_here_brings_no_inline_license_back(state: State) -> None:
    joined = joined_with(document(state, has_held=True))
    assert not inline_grants(joined)
    assert "inline.json is used instead" in warnings(joined)


def test_a_start_that_a_wrong_clock_brought_early_is_given_up_with_it() -> None:
    assert inline_grants(joined_with(document(State.NOT_YET_VALID, has_held=True, **BEGINS)))


def test_a_renewal_in_advance_beside_one_that_holds_changes_nothing() -> None:
    waits = replace(document(State.NOT_YET_VALID, serial=2, **BEGINS), file="b.json")
    joined = joined_with(document(State.VALID), waits)
    assert not inline_grants(joined)
    assert "keep it here" not in warnings(joined)


def test_a_document_that_holds_without_room_leaves_the_inline_license_though_a_renewal_has_room() -> None:
    too_many = policy(principals={f"p{n}": [{"uid": n}] for n in range(9)} | {"app": [{"uid": 90}]})
    base = replace(too_many, licenses=policy(licenses=[INLINE]).licenses)
    full = replace(document(State.VALID, principals=tuple(f"p{n}" for n in range(9))), file="full.json")
    waits = document(State.NOT_YET_VALID, serial=2, **BEGINS)
    joined = join(base, [full, waits], NOW)
    assert inline_grants(joined)
    assert set(joined.left_out) == {"full.json"}


def test_what_has_ended_makes_way_whether_or_not_it_has_room() -> None:
    base = policy(
        principals={f"p{n}": [{"uid": n}] for n in range(9)} | {"app": [{"uid": 90}]}, licenses=[INLINE]
    )
    revoked = document(State.REVOKED, has_held=True, principals=tuple(f"p{n}" for n in range(9)))
    joined = join(base, [revoked], NOW)
    assert not inline_grants(joined)
    assert joined.left_out == {}
