"""The decision, one rule at a time; all rules together are in test_agreement."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.model import (
    Decision,
    Destination,
    HostFacts,
    LocalConsumer,
    Namespace,
    PortClass,
    Protocol,
    Reason,
    RemoteConsumer,
    Target,
    Verdict,
    to_address,
)
from agent.policy.decision.evaluate import evaluate
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import MAX_PATH_COMPONENTS
from tests.unit.policy.mistakes import WHOLE

SECOND = 10**9
BOOT = datetime(2026, 6, 1, tzinfo=UTC)
FACTS = HostFacts(
    host_netns=7,
    addresses=(to_address("192.0.2.1"),),
    namespaces=(Namespace(8, 80, "/run/netns/c", (to_address("10.2.0.9"),)),),
    users={"billing": 1001},
    groups={"sre": 2001},
    boot_offset_ns=int(BOOT.timestamp()) * SECOND,
)
NOBODY = LocalConsumer(exe="/bin/x", uid=9, gids=frozenset({9}), cgroups=(), netns=7)
BILLING = replace(NOBODY, cgroups=("/system.slice/billing.service", "/system.slice"))
SRE = replace(NOBODY, gids=frozenset({9, 2001}))
DB = Destination(Protocol.TCP, to_address("192.0.2.1"), 5432, 7)


def verdict(
    text: str,
    consumer: LocalConsumer | RemoteConsumer,
    destination: Destination = DB,
    at_s: float = 0,
    facts: HostFacts = FACTS,
) -> Verdict:
    tables = compile_policy(parse_policy(text), facts, Ids()).tables
    return evaluate(tables, consumer, destination, int(at_s * SECOND))


def outcome(text: str, consumer: LocalConsumer | RemoteConsumer, **more: float) -> tuple[Decision, Reason]:
    found = verdict(text, consumer, **more)  # type: ignore[arg-type]
    return found.decision, found.reason


def window(keys: str) -> str:
    return WHOLE.replace("    entitlements", f"{keys}    entitlements")


def test_a_licensed_consumer_is_allowed_by_a_named_grant() -> None:
    ids = Ids()
    tables = compile_policy(parse_policy(WHOLE), FACTS, ids).tables
    found = evaluate(tables, BILLING, DB, 0)
    assert (found.decision, found.reason) == (Decision.ALLOWED, Reason.LICENSED)
    assert ids.target_named(found.target) == Target("db", PortClass.INTERNAL)
    assert tables.grants[found.grant].principal == "billing"


def test_a_consumer_of_no_principal_is_unlicensed() -> None:
    assert verdict(WHOLE, NOBODY).reason is Reason.UNLICENSED_PRINCIPAL
    assert verdict(WHOLE, NOBODY).grant == 0


@pytest.mark.parametrize(
    ("protocol", "address", "port", "netns"),
    [
        (Protocol.TCP, "192.0.2.1", 5433, 7),
        (Protocol.UDP, "192.0.2.1", 5432, 7),
        (Protocol.TCP, "192.0.2.2", 5432, 7),
        (Protocol.TCP, "127.0.0.1", 5432, 8),
    ],
)
def test_what_nothing_declares_has_no_target(protocol: Protocol, address: str, port: int, netns: int) -> None:
    assert verdict(WHOLE, NOBODY, Destination(protocol, to_address(address), port, netns)).target == 0


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:127.0.0.1"]
)
def test_every_way_to_say_this_host_is_this_host(address: str) -> None:
    found = verdict(WHOLE, BILLING, Destination(Protocol.TCP, to_address(address), 5432, 7))
    assert (found.decision, found.target) == (Decision.ALLOWED, 1)


def test_an_exclusion_goes_before_any_license() -> None:
    text = WHOLE + "restrictions: [{exclude: ops, target: db}]\n"
    both = replace(SRE, cgroups=BILLING.cgroups)
    assert outcome(text, both) == (Decision.DENIED, Reason.EXCLUDED)
    assert outcome(text, BILLING) == (Decision.ALLOWED, Reason.LICENSED)


def test_an_exclusion_from_one_class_leaves_the_others() -> None:
    text = WHOLE + "restrictions: [{exclude: ops, target: db/admin}]\n"
    assert outcome(text, SRE) == (Decision.ALLOWED, Reason.LICENSED)


def test_without_any_license_everybody_is_denied_for_that() -> None:
    text = WHOLE[: WHOLE.index("licenses:")]
    assert outcome(text, BILLING) == (Decision.DENIED, Reason.NO_LICENSE)


@pytest.mark.parametrize(
    ("at_s", "expected"),
    [
        (9.999, (Decision.DENIED, Reason.NOT_YET_VALID)),
        (10, (Decision.ALLOWED, Reason.LICENSED)),
        (19.999, (Decision.ALLOWED, Reason.LICENSED)),
        (20, (Decision.GRACE, Reason.EXPIRED)),
        (29.999, (Decision.GRACE, Reason.EXPIRED)),
        (30, (Decision.DENIED, Reason.EXPIRED)),
    ],
)
def test_a_window_opens_turns_to_grace_and_closes_at_its_second(
    at_s: float, expected: tuple[Decision, Reason]
) -> None:
    text = window(
        "    starts_at: 2026-06-01T00:00:10Z\n    expires_at: 2026-06-01T00:00:20Z\n"
        "    terminates_at: 2026-06-01T00:00:30Z\n"
    )
    assert outcome(text, BILLING, at_s=at_s) == expected


def test_an_untrusted_clock_denies_nothing_as_not_yet_valid() -> None:
    text = window("    starts_at: 2026-06-01T00:00:10Z\n")
    found = verdict(text, BILLING, facts=replace(FACTS, clock_synced=False))
    assert (found.decision, found.reason) == (Decision.GRACE, Reason.CLOCK_UNSYNCED)


def test_the_reason_is_that_of_the_candidate_that_got_furthest() -> None:
    text = window("    expires_at: 2026-06-01T00:00:10Z\n") + (
        "  - {id: l2, product: acme, starts_at: 2027-01-01T00:00:00Z, "
        "entitlements: [{id: x, principals: [billing]}]}\n"
    )
    ids = Ids()
    tables = compile_policy(parse_policy(text), FACTS, ids).tables
    found = evaluate(tables, BILLING, DB, 11 * SECOND)
    assert found.reason is Reason.EXPIRED
    assert tables.grants[found.grant].license == "l1"


def test_a_later_license_may_allow_what_an_earlier_one_does_not() -> None:
    text = window("    expires_at: 2026-06-01T00:00:10Z\n") + (
        "  - {id: l2, product: acme, entitlements: [{id: x, principals: [billing]}]}\n"
    )
    assert outcome(text, BILLING, at_s=11) == (Decision.ALLOWED, Reason.LICENSED)


GRACE = "    expires_at: 2026-06-01T00:00:10Z\n    terminates_at: 2026-06-01T00:00:20Z\n"
RENEWAL = "  - {id: l2, product: acme, entitlements: [{id: x, principals: [billing]}]}\n"


def decided(text: str, consumer: LocalConsumer, at_s: float) -> tuple[Decision, Reason, str]:
    """With the license that decided."""
    tables = compile_policy(parse_policy(text), FACTS, Ids()).tables
    found = evaluate(tables, consumer, DB, int(at_s * SECOND))
    license_ = tables.grants[found.grant].license if found.grant else ""
    return found.decision, found.reason, license_


def test_a_renewal_beside_the_license_it_renews_shows_no_grace() -> None:
    for text in (window(GRACE) + RENEWAL, window("").replace("licenses:\n", "licenses:\n" + RENEWAL)):
        assert decided(text, BILLING, 11)[:2] == (Decision.ALLOWED, Reason.LICENSED)
    assert decided(window(GRACE) + RENEWAL, BILLING, 9) == (Decision.ALLOWED, Reason.LICENSED, "l1")
    assert decided(window(GRACE) + RENEWAL, BILLING, 11) == (Decision.ALLOWED, Reason.LICENSED, "l2")


def test_grace_wins_against_what_denies_in_any_order() -> None:
    late = RENEWAL.replace("product: acme", "product: acme, starts_at: 2027-01-01T00:00:00Z")
    first = window(GRACE).replace("licenses:\n", "licenses:\n" + late)
    for text in (window(GRACE) + late, first):
        assert decided(text, BILLING, 11) == (Decision.GRACE, Reason.EXPIRED, "l1")
        assert decided(text, BILLING, 20) == (Decision.DENIED, Reason.EXPIRED, "l1")


def test_of_two_licenses_in_grace_the_first_decides() -> None:
    other = RENEWAL.replace("product: acme", "product: acme, " + ", ".join(GRACE.split("\n")[:2]).strip())
    assert decided(window(GRACE) + other, BILLING, 11) == (Decision.GRACE, Reason.EXPIRED, "l1")


GLOB = WHOLE.replace("{group: sre}", "{exe: '/opt/**/run'}")
UNNAMED = replace(NOBODY, exe="/opt/never/seen")


def test_an_unresolved_consumer_follows_the_class() -> None:
    assert outcome(GLOB, UNNAMED) == (Decision.ALLOWED, Reason.UNRESOLVED)
    admin = verdict(GLOB, UNNAMED, replace(DB, port=9187))
    assert (admin.decision, admin.reason, admin.grant) == (Decision.DENIED, Reason.UNRESOLVED, 0)


def test_a_consumer_licensed_for_certain_is_not_unresolved_by_another_doubt() -> None:
    assert outcome(GLOB, replace(UNNAMED, cgroups=BILLING.cgroups)) == (Decision.ALLOWED, Reason.LICENSED)


IN_GRACE = window(GRACE).replace("[billing, ops]", "[billing]")
DOUBTFUL = IN_GRACE.replace("{group: sre}", "{exe: '/opt/**/run'}") + RENEWAL.replace("[billing]", "[ops]")
BOTH = replace(UNNAMED, cgroups=BILLING.cgroups)


@pytest.mark.parametrize("said", ["", "on_unresolved: deny, ", "on_unresolved: allow, "])
@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_grace_that_holds_is_not_undone_by_a_right_in_doubt(said: str, mode: str) -> None:
    text = DOUBTFUL.replace("product: acme\n    ports", f"product: acme\n    {said.strip(', ')}\n    ports")
    text += f"enforcement: {{default: {mode}}}\n"
    assert decided(text, BOTH, 11) == (Decision.GRACE, Reason.EXPIRED, "l1")
    assert decided(text, UNNAMED, 11)[1] is Reason.UNRESOLVED
    assert decided(text, BOTH, 20)[1] is Reason.UNRESOLVED


def test_a_possible_exclusion_leaves_no_grace_certain() -> None:
    text = DOUBTFUL + "restrictions: [{exclude: ops, target: db}]\n"
    assert decided(text, BOTH, 11) == (Decision.ALLOWED, Reason.UNRESOLVED, "")


def test_a_doubt_that_could_only_deny_for_its_window_leaves_no_doubt() -> None:
    text = GLOB.replace("    entitlements", "    expires_at: 2026-06-01T00:00:10Z\n    entitlements")
    assert outcome(text, UNNAMED, at_s=11) == (Decision.DENIED, Reason.UNLICENSED_PRINCIPAL)


def test_a_possible_exclusion_makes_an_allowed_consumer_unresolved() -> None:
    text = GLOB + "restrictions: [{exclude: ops, target: db}]\n"
    found = verdict(text, replace(UNNAMED, cgroups=BILLING.cgroups))
    assert (found.decision, found.reason) == (Decision.ALLOWED, Reason.UNRESOLVED)


@pytest.mark.parametrize(
    ("said", "mode", "override", "allowed"),
    [
        ("", "observe", None, True),
        ("", "enforce", None, False),
        ("", "enforce", False, True),
        ("", "observe", True, False),
        ("on_unresolved: allow, ", "enforce", None, True),
        ("on_unresolved: allow, ", "observe", True, True),
        ("on_unresolved: deny, ", "observe", None, False),
        ("on_unresolved: deny, ", "enforce", False, False),
    ],
)
def test_an_unresolved_consumer_is_let_in_where_nothing_enforces_or_the_service_says_so(
    said: str, mode: str, override: bool | None, allowed: bool
) -> None:
    text = f"""
version: 1
services: {{db: {{product: acme, {said}ports: [{{port: 5432, class: internal}}]}}}}
principals: {{who: [{{exe: /opt/**/run}}]}}
licenses: [{{id: l, product: acme, entitlements: [{{id: e, principals: [who]}}]}}]
enforcement: {{default: {mode}}}
"""
    tables = compile_policy(parse_policy(text), FACTS, Ids()).tables
    enforces = None if override is None else lambda _target: override
    found = evaluate(tables, UNNAMED, DB, 0, enforces)
    expected = Decision.ALLOWED if allowed else Decision.DENIED
    assert (found.decision, found.reason) == (expected, Reason.UNRESOLVED)


def test_any_number_of_groups_is_looked_through() -> None:
    many = replace(NOBODY, gids=frozenset(range(3000, 3070)))
    assert verdict(WHOLE, many).reason is Reason.UNLICENSED_PRINCIPAL
    member = replace(many, gids=many.gids | {FACTS.groups["sre"]})
    assert outcome(WHOLE, member) == (Decision.ALLOWED, Reason.LICENSED)


def test_a_path_too_deep_for_the_kernel_matches_nothing_for_certain() -> None:
    deep = replace(NOBODY, exe="/opt" + "/x" * MAX_PATH_COMPONENTS + "/run")
    assert outcome(GLOB, deep) == (Decision.DENIED, Reason.UNLICENSED_PRINCIPAL)


def test_a_cgroup_deeper_than_the_kernel_walks_is_what_lies_above_it() -> None:
    below = [f"/system.slice/billing.service{'/x' * depth}" for depth in range(20, 0, -1)]
    assert outcome(WHOLE, replace(NOBODY, cgroups=(*below, *BILLING.cgroups))) == (
        Decision.ALLOWED,
        Reason.LICENSED,
    )
    for levels in (11, 12, 13):
        above = [f"/{'/'.join(['x'] * depth)}" for depth in range(levels, 0, -1)]
        deep = replace(NOBODY, cgroups=(f"{above[0]}/billing.service", *above))
        expected = Reason.LICENSED if levels == 11 else Reason.UNLICENSED_PRINCIPAL
        assert verdict(WHOLE, deep).reason is expected


def test_a_child_of_a_service_cannot_pose_as_another_service() -> None:
    forged = ("/system.slice/evil.service/billing.service", "/system.slice/evil.service", "/system.slice")
    facts = replace(FACTS, cgroups={path: number for number, path in enumerate(forged, 1)})
    assert verdict(WHOLE, replace(NOBODY, cgroups=forged), facts=facts).reason is Reason.UNLICENSED_PRINCIPAL


def test_what_a_service_starts_below_itself_is_the_service() -> None:
    child = ("/system.slice/billing.service/w/1", "/system.slice/billing.service/w", *BILLING.cgroups)
    assert outcome(WHOLE, replace(NOBODY, cgroups=child)) == (Decision.ALLOWED, Reason.LICENSED)


def test_a_cidr_speaks_of_remotes_and_containers_not_of_the_host() -> None:
    text = WHOLE.replace("{group: sre}", "{cidr: [10.2.0.0/16, 192.0.2.0/24]}")
    assert outcome(text, RemoteConsumer(to_address("10.2.9.9"))) == (Decision.ALLOWED, Reason.LICENSED)
    assert outcome(text, replace(NOBODY, netns=8)) == (Decision.ALLOWED, Reason.LICENSED)
    assert outcome(text, NOBODY) == (Decision.DENIED, Reason.UNLICENSED_PRINCIPAL)
    assert outcome(text, replace(NOBODY, netns=99)) == (Decision.ALLOWED, Reason.UNRESOLVED)


def test_all_of_ipv6_is_not_ipv4() -> None:
    text = WHOLE.replace("{group: sre}", "{cidr: '::/0'}")
    assert outcome(text, RemoteConsumer(to_address("2001:db8::1")))[0] is Decision.ALLOWED
    assert outcome(text, RemoteConsumer(to_address("10.0.0.1")))[0] is Decision.DENIED


def test_anyone_is_everyone() -> None:
    text = WHOLE.replace("[billing, ops]", "[anyone]")
    for consumer in (NOBODY, replace(NOBODY, exe=None, netns=99), RemoteConsumer(to_address("203.0.113.1"))):
        assert outcome(text, consumer) == (Decision.ALLOWED, Reason.LICENSED)


@pytest.mark.parametrize("pattern", ["/bin/x", "/bin/*", "/b*/x", "/bin/?"])
def test_an_executable_that_nobody_has_looked_at_could_be_any(pattern: str) -> None:
    text, unknown = WHOLE.replace("{group: sre}", f"{{exe: '{pattern}'}}"), replace(NOBODY, exe=None)
    assert outcome(text, unknown) == (Decision.ALLOWED, Reason.UNRESOLVED)
    assert outcome(text, replace(BILLING, exe=None)) == (Decision.ALLOWED, Reason.LICENSED)
    text += "restrictions: [{exclude: ops, target: db}]\n"
    assert outcome(text, replace(BILLING, exe=None)) == (Decision.ALLOWED, Reason.UNRESOLVED)


def test_the_keys_of_a_selector_are_and_its_values_or() -> None:
    text = WHOLE.replace("{group: sre}", "{exe: [/bin/x, /bin/y], user: [billing, 9], group: [sre, 9]}")
    assert outcome(text, NOBODY)[0] is Decision.ALLOWED
    assert outcome(text, replace(NOBODY, exe="/bin/z"))[0] is Decision.DENIED
    assert outcome(text, replace(NOBODY, uid=10))[0] is Decision.DENIED
    assert outcome(text, replace(NOBODY, gids=frozenset({10})))[0] is Decision.DENIED


def test_the_narrowest_place_wins() -> None:
    text = WHOLE.replace("web: {", "web: {at: [10.0.0.0/8], ").replace(
        "principals:",
        "  near: {product: none, at: [10.1.0.0/16], ports: [{port: 80, class: public}]}\nprincipals:",
        1,
    )
    near = Destination(Protocol.TCP, to_address("10.1.2.3"), 80, 7)
    assert verdict(text, BILLING, near).reason is Reason.NO_LICENSE
    assert verdict(text, BILLING, replace(near, address=to_address("10.2.2.3"))).reason is Reason.LICENSED
