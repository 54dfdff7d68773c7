"""License documents that come beside what is in force: none displaces a right without taking its place."""

from __future__ import annotations

import random

from agent.license.report import State
from agent.model import Reason
from agent.policy.document.join import join
from tests.unit.policy.document.test_join import DAY, INLINE, NOW, names, policy, report, warnings

EIGHT = {f"p{number}": [{"uid": number}] for number in range(8)}


def test_a_renewal_that_has_not_begun_takes_no_room_from_what_holds() -> None:
    base = policy(principals=EIGHT)
    now = report("z.json", principals=tuple(EIGHT), id="acme-2026")
    renewal = report(
        "a.json",
        State.NOT_YET_VALID,
        tuple(EIGHT),
        id="acme-2027",
        starts_at=NOW + DAY,
        expires_at=NOW + 9 * DAY,
        terminates_at=NOW + 9 * DAY,
    )
    joined = join(base, [renewal, now], NOW)
    assert names(joined) == [("acme-2026", None)]
    assert set(joined.left_out) == {"a.json"}


def test_documents_stay_in_file_order_whichever_have_begun() -> None:
    reports = [report("a.json", State.NOT_YET_VALID, starts_at=NOW + DAY), report("b.json"), report("c.json")]
    random.Random(1).shuffle(reports)
    assert [name for name, _ in names(join(policy(), reports, NOW))] == ["a", "b", "c"]


def test_the_same_document_in_nine_files_takes_the_room_of_one() -> None:
    same = [report(f"{number}.json", id="acme", serial=1) for number in range(9)]
    joined = join(policy(), [*same, report("z.json")], NOW)
    assert [name for name, _ in names(joined)] == ["acme", "z"]
    assert "8.json: left out: 0.json is the same document" in warnings(joined)


def test_the_same_document_under_a_revoked_key_displaces_none() -> None:
    revoked, good = report("a.json", State.REVOKED, id="x"), report("b.json", id="x")
    assert names(join(policy(), [revoked, good], NOW)) == [("x", Reason.REVOKED), ("x", None)]


def test_an_inline_license_gives_way_to_no_document_that_is_left_out() -> None:
    base = policy(principals={**EIGHT, "app": [{"uid": 90}]}, licenses=[INLINE])
    full = report("a.json", principals=tuple(EIGHT)[:7])
    too_much = report("b.json", principals=("p0", "p1"), id="inline")
    joined = join(base, [full, too_much], NOW)
    assert names(joined) == [("inline", None), ("a", None)]
    assert set(joined.left_out) == {"b.json"}
    assert "used instead" not in warnings(joined)


def test_an_inline_license_gives_way_to_no_document_for_another_product() -> None:
    other = report("b.json", id="inline", product="shop")
    assert names(join(policy(licenses=[INLINE]), [other], NOW)) == [("inline", None), ("inline", None)]
