"""License documents beside the licenses of a policy: what fits, what is left out, and what that does to the
rest."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.license.report import DocumentReport, Standing, State
from agent.license.values import DocumentEntitlement, Kind, LicenseDocument
from agent.model import HostFacts, PortClass, Reason, Target
from agent.policy.document.join import Joined, join
from agent.policy.document.load import parse_policy
from agent.policy.tables.clauses import policy_clauses
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.grants import planned_grants
from agent.policy.tables.ids import Ids
from agent.policy.values import Policy

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def policy(**sections: Any) -> Policy:
    return parse_policy(
        json.dumps(
            {
                "version": 1,
                "services": {
                    "db": {"product": "orders", "ports": [{"port": 5432, "class": "internal"}]},
                    "web": {"product": "shop", "ports": [{"port": 80, "class": "public"}]},
                },
                "principals": {"app": [{"uid": 1}], "ops": [{"group": "sre"}], "ci": [{"uid": 3}]},
                **sections,
            }
        )
    )


def report(
    file: str = "a.json", state: State = State.VALID, principals: tuple[str, ...] = ("app",), **changes: Any
) -> DocumentReport:
    made = LicenseDocument(
        file.removesuffix(".json"),
        1,
        "Acme",
        "Example",
        "orders",
        Kind.PRODUCTION,
        NOW - DAY,
        NOW - DAY,
        (DocumentEntitlement("use", principals),),
        NOW + DAY,
        NOW + DAY,
    )
    verified = state not in (State.UNKNOWN_KEY, State.BAD_SIGNATURE, State.MALFORMED)
    return DocumentReport(file, replace(made, **changes), Standing(state), verified)


def names(joined: Joined) -> list[tuple[str, Reason | None]]:
    return [(one.id, one.state) for one in joined.policy.licenses]


def warnings(joined: Joined) -> str:
    return "\n".join(str(one) for one in joined.policy.warnings)


INLINE = {"id": "inline", "product": "orders", "entitlements": [{"id": "use", "principals": ["app"]}]}


def test_documents_stand_behind_inline_licenses_in_file_order() -> None:
    joined = join(policy(licenses=[INLINE]), [report("b.json"), report("c.json", State.REVOKED)], NOW)
    assert names(joined) == [("inline", None), ("b", None), ("c", Reason.REVOKED)]


def test_without_documents_nothing_changes() -> None:
    for before in (policy(), policy(licenses=[INLINE])):
        assert join(before, [], NOW) == Joined(before)


def test_a_covered_service_is_no_longer_warned_about() -> None:
    assert "no license for product 'orders'" in warnings(join(policy(), [], NOW))
    found = warnings(join(policy(), [report()], NOW))
    assert "product 'orders'" not in found
    assert "principal 'app'" not in found
    assert "product 'shop'" in found


@pytest.mark.parametrize("state", [State.UNKNOWN_KEY, State.BAD_SIGNATURE])
def test_what_nobody_signed_covers_nothing(state: State) -> None:
    joined = join(policy(), [report(state=state, principals=("app", "nobody"), product="x")], NOW)
    assert warnings(joined) == warnings(join(policy(), [], NOW))
    assert [one.is_verified for one in joined.policy.licenses] == [False]


@pytest.mark.parametrize("state", [State.MALFORMED, State.UNVERIFIED])
def test_what_has_no_verdict_has_no_candidate(state: State) -> None:
    assert names(join(policy(), [report(state=state)], NOW)) == []


def test_undefined_names_are_warned_about_and_grant_nobody() -> None:
    joined = join(policy(), [report(principals=("ap", "app", *(f"x{n}" for n in range(100))))], NOW)
    assert joined.policy.licenses[0].entitlements[0].principals == ("app",)
    assert "'ap' (and 100 more)" in warnings(joined)
    assert "did you mean 'app'?" in warnings(joined)
    assert len(joined.policy.warnings) < 10
    assert "product 'x', which no service has" in warnings(join(policy(), [report(product="x")], NOW))


def test_a_document_grants_only_on_services_of_its_product() -> None:
    limited = (DocumentEntitlement("use", ("app",), services=("db", "web", "wb")),)
    joined = join(policy(), [report(entitlements=limited)], NOW)
    planned = planned_grants(joined.policy.services.values(), joined.policy.licenses)
    assert {str(target): len(grants) for target, grants in planned.items()} == {
        "db/internal": 1,
        "web/public": 0,
    }
    assert "service 'web' is of product 'shop'" in warnings(joined)
    assert "names service 'wb'" in warnings(joined)


def test_the_ninth_that_can_grant_is_left_out_whole() -> None:
    before = policy(licenses=[INLINE])
    reports = [report(f"{n}.json") for n in range(9)]
    joined = join(before, reports, NOW)
    assert [name for name, _ in names(joined)] == ["inline", *(str(n) for n in range(7))]
    assert set(joined.left_out) == {"7.json", "8.json"}
    assert "8.json: left out: target db/internal would have 9 grants, 8 are the most" in warnings(joined)
    ended = replace(before, licenses=())
    assert len(join(ended, reports, NOW).policy.licenses) == 8


@pytest.mark.parametrize("state", [State.SUPERSEDED, State.EXPIRED, State.BAD_SIGNATURE])
def test_what_only_denies_takes_no_room(state: State) -> None:
    past = {"expires_at": NOW - DAY, "terminates_at": NOW} if state is State.EXPIRED else {}
    dead = [report(f"a{n}.json", state, **past) for n in range(12)]
    joined = join(policy(), [*dead, *(report(f"b{n}.json") for n in range(8))], NOW)
    assert [name for name, _ in names(joined) if name.startswith("b")] == [f"b{n}" for n in range(8)]
    assert len(joined.policy.licenses) == 16


def test_a_document_that_names_millions_is_left_out_at_once() -> None:
    entitlements = tuple(DocumentEntitlement(f"e{n}", ("app", "ops", "ci") * 20) for n in range(256))
    many = policy(
        services={
            f"s{n}": {"product": "orders", "ports": [{"port": 1000 + n, "class": "internal"}]}
            for n in range(1000)
        }
    )
    for state in (State.VALID, State.REVOKED, State.BAD_SIGNATURE):
        assert names(join(many, [report(state=state, entitlements=entitlements)], NOW)) == []


def test_clauses_are_counted_only_where_a_document_needs_more() -> None:
    # `ops` matches more in the exclusion than in a license: a license for it needs a clause of its own
    excluding = policy(restrictions=[{"exclude": "ops", "target": "db"}])
    assert len(policy_clauses(join(excluding, [], NOW).policy)) == 4
    assert len(policy_clauses(join(excluding, [report(principals=("ops",))], NOW).policy)) == 5
    forged = join(excluding, [report(state=State.BAD_SIGNATURE, principals=("ops", "app"))], NOW)
    assert len(policy_clauses(forged.policy)) == 4
    assert forged.policy.licenses[0].entitlements[0].principals == ("app",)


def test_a_document_that_needs_one_clause_too_many_is_left_out() -> None:
    full = policy(
        principals={"app": [{"uid": 1}], "ops": [{"group": "sre", "uid": n} for n in range(1022)]},
        restrictions=[{"exclude": "ops", "target": "db"}],
    )
    joined = join(full, [report(principals=("ops",)), report("b.json")], NOW)
    assert names(joined) == [("b", None)]
    assert "1,023 are the most" in joined.left_out["a.json"]


def test_a_document_whose_groups_are_too_many_is_left_out() -> None:
    full = policy(
        principals={
            "app": [{"group": [f"g{n}" for n in range(40)]}],
            "ops": [{"group": [f"h{n}" for n in range(40)]}],
        }
    )
    joined = join(full, [report(), report("b.json", principals=("ops",))], NOW)
    assert set(joined.left_out) == {"b.json"}
    assert "64 groups" in joined.left_out["b.json"]
    for first in (State.VALID, State.REVOKED):
        joined = join(full, [report(state=first), report("b.json", State.REVOKED, ("ops",))], NOW)
        assert joined.left_out == {}, "what only denies is no finding"
        assert [name for name, _ in names(joined)] == ["a"]
    joined = join(full, [report(state=State.REVOKED), report("b.json", principals=("ops",))], NOW)
    assert joined.left_out == {}
    assert in_tables(joined) == ["b"]


def in_tables(joined: Joined) -> list[str]:
    """The licenses of db/internal's candidates, once the policy is compiled."""
    groups = {f"{letter}{n}": 1000 * place + n for place, letter in enumerate("gh") for n in range(40)}
    facts = HostFacts(1, (), boot_offset_ns=int(NOW.timestamp()) * 10**9, groups=groups)
    compiled = compile_policy(joined.policy, facts, Ids())
    return [plan.license.id for plan in compiled.plans[Target("db", PortClass.INTERNAL)]]


def test_a_document_that_only_denies_leaves_the_last_clauses_to_one_that_grants() -> None:
    eight = [{"group": "sre", "uid": n} for n in range(8)]
    full = policy(
        principals={"app": eight, "ops": eight, "ci": [{"uid": n} for n in range(995)]},
        restrictions=[{"exclude": name, "target": "web"} for name in ("ops", "app")],
    )
    b = report("b.json", principals=("ops",))
    assert set(join(full, [report(), b], NOW).left_out) == {"b.json"}
    joined = join(full, [report(state=State.REVOKED), b], NOW)
    assert joined.left_out == {}
    assert in_tables(joined) == ["b"]


def test_entitlements_that_have_ended_take_no_room() -> None:
    ended = tuple(DocumentEntitlement(f"e{n}", ("app",), expires_at=NOW) for n in range(20))
    lasting = (DocumentEntitlement("use", ("app",)),)
    many = [report(f"{n}.json", entitlements=(*ended[:2], *lasting)) for n in range(8)]
    joined = join(policy(), [*many, report("8.json")], NOW)
    assert set(joined.left_out) == {"8.json"}
    assert in_tables(joined) == [str(n) for n in range(8)]
    joined = join(policy(), [report(entitlements=(*ended, *lasting))], NOW)
    assert [one.id for each in joined.policy.licenses for one in each.entitlements] == ["use"]
    past = {"principals": ["app"], "expires_at": "2026-05-01T00:00:00Z"}
    inline = {**INLINE, "entitlements": [{"id": f"e{n}", **past} for n in range(8)]}
    joined = join(policy(licenses=[inline]), [report()], NOW)
    assert in_tables(joined)[-1] == "a"


def test_an_inline_license_gives_way_to_a_verified_document() -> None:
    before = policy(licenses=[INLINE])
    assert names(join(before, [report("inline.json")], NOW)) == [("inline", None)]
    joined = join(before, [report("inline.json", principals=("ci",))], NOW)
    assert joined.policy.licenses[0].document is not None
    assert "inline.json is used instead" in warnings(joined)
    forged = join(before, [report("inline.json", State.BAD_SIGNATURE)], NOW)
    assert [one.document is None for one in forged.policy.licenses] == [True, False]


def test_where_only_signed_licenses_grant() -> None:
    joined = join(policy(licenses=[INLINE]), [report()], NOW, require_signed=True)
    assert names(joined) == [("inline", Reason.BAD_SIGNATURE), ("a", None)]
    assert "1 license of the policy: not signed" in warnings(joined)
    assert "not signed" not in warnings(join(policy(), [report()], NOW, require_signed=True))
