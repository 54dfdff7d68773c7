"""What ends up in the tables, and what the daemon asks for later."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.errors import PolicyErrors
from agent.model import HostFacts, Namespace, Target, show_network, to_address
from agent.policy.compile import (
    Compiled,
    compile_policy,
    member_for_cgroup,
    member_for_executable,
    member_for_netns,
)
from agent.policy.document import parse_policy
from agent.policy.hashing import path_hash, string_hash
from agent.policy.ids import Ids
from agent.policy.tables import NO_BOOT_NS, Dimension, SetId, Uncertain, empty_tables
from tests.unit.policy.mistakes import WHOLE

FACTS = HostFacts(
    host_netns=7,
    addresses=tuple(map(to_address, ("192.0.2.1", "fd00::1", "fe80::1"))),
    namespaces=(Namespace(8, 80, "/run/netns/c", (to_address("10.2.0.9"),)),),
    users={"billing": 1001},
    groups={"sre": 2001},
    hash_seed=42,
)


def compiled(principal: str, facts: HostFacts = FACTS) -> Compiled:
    """WHOLE with another principal `ops`; its first clause is bit 2, after `anyone` and billing's."""
    return compile_policy(parse_policy(WHOLE.replace("[{group: sre}]", principal)), facts, Ids())


def member(made: Compiled, dimension: Dimension, value: int) -> int | None:
    number = made.tables.members.get((dimension, value))
    return None if number is None else made.tables.sets[number]


BILLING, OPS = 1 << 1, 1 << 2
ANYONE = 1


def keys(made: Compiled, port: int) -> set[tuple[int, str]]:
    return {(key.netns, show_network(key.network)) for key in made.tables.targets if key.port == port}


def test_no_policy_compiles_to_empty_tables() -> None:
    assert compile_policy(None, FACTS, Ids()).tables == empty_tables(42)


def test_this_host_is_its_addresses_and_what_each_namespace_has_of_its_own() -> None:
    assert keys(compiled("[{uid: 1}]"), 80) == {
        (0, "192.0.2.1/32"),
        (0, "fd00::1/128"),
        (7, "fe80::1/128"),
        (7, "127.0.0.0/8"),
        (7, "::1/128"),
        (7, "0.0.0.0/32"),
        (7, "::/128"),
    }


def test_a_place_elsewhere_is_its_networks() -> None:
    text = WHOLE.replace("web: {", "web: {at: [10.0.0.0/8, 127.0.0.3, fd00::/8], ")
    made = compile_policy(parse_policy(text), FACTS, Ids())
    assert keys(made, 80) == {(0, "10.0.0.0/8"), (7, "127.0.0.3/32"), (0, "fd00::/8")}


def test_an_address_of_this_host_named_by_another_service_goes_to_that_one() -> None:
    near = "  near: {product: acme, at: [192.0.2.1], ports: [{port: 80, class: admin}]}\nprincipals:"
    ids = Ids()
    made = compile_policy(parse_policy(WHOLE.replace("principals:", near, 1)), FACTS, ids)
    owners = {
        show_network(key.network): ids.target_named(n)
        for key, n in made.tables.targets.items()
        if key.port == 80
    }
    assert str(owners["192.0.2.1/32"]) == "near/admin"
    assert str(owners["fd00::1/128"]) == "web/public"
    (warning,) = [each for each in made.warnings if "takes 80/tcp" in each.reason]
    assert warning.place.line == 7


def test_a_port_range_is_written_out() -> None:
    made = compile_policy(parse_policy(WHOLE.replace("port: 80,", "port: 80-83,")), FACTS, Ids())
    assert made.tables.ports == {80, 81, 82, 83, 5432, 9187}


def test_a_literal_executable_is_known_by_its_path_and_by_where_it_leads() -> None:
    facts = replace(FACTS, realpaths={"/usr/bin/python3": "/usr/bin/python3.11"})
    made = compiled("[{exe: /usr/bin/python3}]", facts)
    for path in ("/usr/bin/python3", "/usr/bin/python3.11"):
        assert member(made, Dimension.EXE, path_hash(path, 42)) == ANYONE | BILLING | OPS
    assert made.tables.sets[SetId.MISS + Dimension.EXE] == ANYONE | BILLING
    assert made.tables.sets[SetId.CERTAIN + Uncertain.EXE] == ANYONE | BILLING | OPS


def test_a_directory_decides_for_names_that_are_not_known() -> None:
    made = compiled("[{exe: /opt/app/*}]")
    assert member(made, Dimension.EXE_DIR, path_hash("/opt/app", 42)) == ANYONE | BILLING | OPS
    assert made.tables.sets[SetId.CERTAIN + Uncertain.EXE] & OPS


def test_a_literal_name_in_a_directory_has_the_clause_of_the_directory_too() -> None:
    made = compiled("[{exe: /opt/app/*}, {exe: /opt/app/x}]")
    assert member(made, Dimension.EXE, path_hash("/opt/app/x", 42)) == 0b1111


def test_a_glob_is_uncertain_until_the_name_is_known() -> None:
    made = compiled(
        "[{exe: '/opt/a*/run'}]", replace(FACTS, executables=frozenset({"/opt/app/run", "/bin/sh"}))
    )
    assert member(made, Dimension.EXE, path_hash("/opt/app/run", 42)) == ANYONE | BILLING | OPS
    assert member(made, Dimension.EXE, path_hash("/bin/sh", 42)) == ANYONE | BILLING
    assert made.tables.sets[SetId.MISS + Dimension.EXE] & OPS
    assert not made.tables.sets[SetId.CERTAIN + Uncertain.EXE] & OPS


def test_a_file_of_unknown_name_in_a_named_directory_could_still_be_of_a_glob() -> None:
    made = compiled("[{exe: /opt/app/*}, {exe: '/opt/**/run'}]")
    assert member(made, Dimension.EXE_DIR, path_hash("/opt/app", 42)) == 0b1111
    assert made.tables.sets[SetId.CERTAIN + Uncertain.EXE] == 0b0111


def test_directories_and_globs_of_one_selector_do_not_blur_each_other() -> None:
    made = compiled("[{exe: [/opt/app/*, '/srv/**/run']}]")
    certain = made.tables.sets[SetId.CERTAIN + Uncertain.EXE]
    found = member(made, Dimension.EXE_DIR, path_hash("/opt/app", 42))
    assert found is not None
    assert found & certain & made.index.principals["ops"]


def test_a_task_without_an_executable_or_a_trusted_name_matches_no_executable() -> None:
    made = compiled("[{exe: '/**'}]")
    assert member(made, Dimension.EXE, 0) == ANYONE | BILLING
    assert member(made, Dimension.EXE, 1) == ANYONE | BILLING


def test_users_and_groups_are_ids() -> None:
    made = compiled("[{user: billing}, {user: 5}, {group: sre}]")
    assert member(made, Dimension.UID, 1001) == 0b10111
    assert member(made, Dimension.UID, 5) == 0b11011
    assert member(made, Dimension.GID, 2001) == 0b11111
    assert made.tables.sets[SetId.MISS + Dimension.GID] == 0b01111


def test_a_user_the_host_does_not_know_is_nobody_and_a_warning() -> None:
    made = compiled("[{user: ghost}]")
    assert not any(
        made.tables.sets[n] & OPS for (d, _), n in made.tables.members.items() if d is Dimension.UID
    )
    assert not made.tables.sets[SetId.MISS + Dimension.UID] & OPS
    (warning,) = made.warnings
    assert (warning.place.line, warning.reason) == (
        9,
        "principal 'ops': user 'ghost' does not exist on this host",
    )


def test_a_unit_is_known_by_path_before_it_runs() -> None:
    made = compiled("[{unit: web@1.service}]")
    path = "/system.slice/system-web.slice/web@1.service"
    assert member(made, Dimension.CGROUP_PATH, string_hash(path, 42)) == ANYONE | OPS


def test_a_unit_that_runs_elsewhere_is_known_by_id_and_by_path() -> None:
    facts = replace(
        FACTS, cgroups={"/other.slice/billing.service": 77, "/other.slice/x.service/billing.service": 78}
    )
    made = compiled("[{uid: 1}]", facts)
    assert member(made, Dimension.CGROUP, 77) == ANYONE | BILLING | OPS
    assert member(made, Dimension.CGROUP, 78) is None, "a service cannot name its children after another one"
    path = string_hash("/other.slice/billing.service", 42)
    assert member(made, Dimension.CGROUP_PATH, path) == ANYONE | BILLING | OPS


def test_a_cidr_holds_for_containers_and_never_for_the_host_itself() -> None:
    made = compiled("[{cidr: 10.2.0.0/16}]", replace(FACTS, addresses=(to_address("10.2.0.1"),)))
    assert member(made, Dimension.NETNS, 8) == ANYONE | BILLING | OPS
    assert member(made, Dimension.NETNS, 7) == ANYONE | BILLING
    assert made.tables.sets[SetId.MISS + Dimension.NETNS] & OPS, "an unknown namespace could have any address"
    assert not made.tables.sets[SetId.CERTAIN + Uncertain.NETNS] & OPS


def test_an_address_alone_satisfies_only_what_speaks_of_nothing_else() -> None:
    made = compiled("[{cidr: 10.2.0.0/16}, {cidr: 10.2.3.0/24, uid: 5}]")
    found = {show_network(network): made.tables.sets[n] for network, n in made.tables.sources.items()}
    assert all(bits == ANYONE | OPS for bits in found.values())
    assert made.tables.sets[SetId.MISS_SOURCE] == ANYONE


def test_windows_are_boot_time_and_never_before_boot() -> None:
    boot = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp()) * 10**9
    window = (
        "    starts_at: 2020-01-01T00:00:00Z\n    expires_at: 2026-06-01T00:00:01Z\n"
        "    terminates_at: 9999-01-01T00:00:00Z\n"
    )
    text = WHOLE.replace("    entitlements", f"{window}    entitlements")
    ids = Ids()
    made = compile_policy(parse_policy(text), replace(FACTS, boot_offset_ns=boot), ids)
    candidate = made.tables.rows[
        ids.target(Target("web", next(iter(parse_policy(text).services["web"].classes))))
    ].candidates[0]
    assert (candidate.from_ns, candidate.expires_ns, candidate.ends_ns) == (0, 10**9, NO_BOOT_NS)


def test_an_entitlement_narrows_its_license_and_has_no_grace_of_its_own() -> None:
    text = WHOLE.replace(
        "id: app,", "id: app, starts_at: 2026-06-01T00:00:02Z, expires_at: 2026-06-01T00:00:03Z,"
    )
    text = text.replace(
        "    entitlements",
        "    starts_at: 2026-06-01T00:00:01Z\n    expires_at: 2026-06-01T00:00:04Z\n    entitlements",
    )
    boot = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp()) * 10**9
    made = compile_policy(parse_policy(text), replace(FACTS, boot_offset_ns=boot), Ids())
    for row in made.tables.rows.values():
        assert {(c.from_ns, c.expires_ns, c.ends_ns) for c in row.candidates} == {
            (2 * 10**9, 3 * 10**9, 3 * 10**9)
        }


def test_candidates_keep_the_order_of_the_policy() -> None:
    made = compiled("[{uid: 1}]")
    names = [
        [made.tables.grants[c.grant].principal for c in row.candidates] for row in made.tables.rows.values()
    ]
    assert names == [["billing", "ops"]] * 3


def test_ids_stay_the_same_when_the_policy_changes() -> None:
    ids = Ids()
    before = compile_policy(parse_policy(WHOLE), FACTS, ids).tables
    shorter = WHOLE.replace("    ports: [{port: 5432, class: internal}, ", "    ports: [")
    after = compile_policy(parse_policy(shorter), FACTS, ids).tables
    assert {str(row.target): n for n, row in after.rows.items()}.items() <= {
        str(row.target): n for n, row in before.rows.items()
    }.items()
    assert after.grants.items() <= before.grants.items()


def test_names_that_arrive_later_get_the_sets_they_would_have_had() -> None:
    policy = "[{exe: '/opt/**/run'}, {unit: late.service}, {cidr: 10.9.0.0/16}]"
    made = compiled(policy)
    later = replace(
        FACTS,
        executables=frozenset({"/opt/x/run"}),
        cgroups={"/own.slice/late.service": 5},
        namespaces=(Namespace(9, 90, "/run/netns/d", (to_address("10.9.1.1"),)),),
    )
    known = compiled(policy, later)
    assert member_for_executable(made, "/opt/x/run") == member(
        known, Dimension.EXE, path_hash("/opt/x/run", 42)
    )
    assert member_for_cgroup(made, "/own.slice/late.service") == (member(known, Dimension.CGROUP, 5), 0)
    assert member_for_netns(made, [to_address("10.9.1.1")]) == member(known, Dimension.NETNS, 9)


def test_more_sets_than_the_kernel_has_room_for_are_an_error() -> None:
    principals = "".join(
        f"  p{n}: [{{cidr: [{', '.join(f'10.{n}.{m >> 8}.{m & 255}' for m in range(300))}]}}]\n"
        for n in range(60)
    )
    text = WHOLE.replace("  ops:", f"{principals}  ops:")
    compile_policy(parse_policy(text), FACTS, Ids())
    users = frozenset(f"/opt/{n}" for n in range(17000))
    globs = ", ".join(f"{{exe: '/opt/*{bit}?{'?' * width}'}}" for bit in range(10) for width in range(4))
    globs += ", " + ", ".join(
        f"{{exe: '/opt/{'?' * place}{digit}*'}}" for place in range(5) for digit in range(10)
    )
    with pytest.raises(PolicyErrors, match="different combinations of selectors"):
        compile_policy(
            parse_policy(WHOLE.replace("{group: sre}", globs)), replace(FACTS, executables=users), Ids()
        )


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ("{exe: /opt/none/x}", "no file on this host is '/opt/none/x'"),
        ("{exe: /opt/none/*}", "no file on this host is '/opt/none/*'"),
        ("{group: ghosts}", "group 'ghosts' does not exist on this host"),
        ("{unit: gone.service}", "unit 'gone.service' is not running on this host"),
    ],
)
def test_a_selector_that_can_match_nothing_here_is_a_warning(selector: str, reason: str) -> None:
    facts = replace(FACTS, cgroups={"/system.slice/billing.service": 1}, executables=frozenset({"/bin/sh"}))
    assert [each.reason for each in compiled(f"[{selector}]", facts).warnings] == [
        f"principal 'ops': {reason}"
    ]


def test_a_selector_that_matches_is_no_warning() -> None:
    facts = replace(FACTS, cgroups={"/system.slice/billing.service/x": 1}, executables=frozenset({"/bin/sh"}))
    assert (
        compiled("[{exe: /bin/*, user: billing}, {exe: /bin/sh}, {exe: '/opt/**/x'}]", facts).warnings == ()
    )
