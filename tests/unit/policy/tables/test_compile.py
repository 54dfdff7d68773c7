"""What ends up in the tables, and what the daemon asks for later."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.errors import PolicyErrors
from agent.model import (
    Container,
    Destination,
    EphemeralPorts,
    HostFacts,
    Namespace,
    Protocol,
    Target,
    show_network,
    to_address,
)
from agent.policy.decision.consumer_sets import cgroup_member
from agent.policy.decision.evaluate import row_of_destination
from agent.policy.decision.owners import lineage
from agent.policy.document.load import parse_policy
from agent.policy.tables import claims
from agent.policy.tables.compile import (
    Compiled,
    compile_policy,
    member_for_cgroup,
    member_for_executable,
    member_for_netns,
)
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import (
    DELIVERED,
    MEMBER_CONTAINER,
    MEMBER_FLAGS,
    MEMBER_UNSURE,
    NO_BOOT_NS,
    Dimension,
    SetId,
    Uncertain,
    empty_tables,
)
from agent.policy.terms.hashing import path_hash, string_hash, template_hash
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
    return None if number is None else made.tables.sets[number & ~MEMBER_FLAGS]


BILLING, OPS = 1 << 1, 1 << 2
ANYONE = 1


def keys(made: Compiled, port: int) -> set[tuple[int, str]]:
    number = made.tables.number_of(port)
    return {(key.netns, show_network(key.network)) for key in made.tables.targets if key.ports == number}


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
        (7, str(DELIVERED)),
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
        if key.ports == made.tables.number_of(80)
    }
    assert str(owners["192.0.2.1/32"]) == "near/admin"
    assert str(owners["fd00::1/128"]) == "web/public"
    (warning,) = [each for each in made.warnings if "takes 80/tcp" in each.reason]
    assert warning.place.line == 7


def test_a_port_range_costs_as_much_as_a_port() -> None:
    ids = Ids()
    one = compile_policy(parse_policy(WHOLE), FACTS, ids).tables
    made = compile_policy(parse_policy(WHOLE.replace("port: 80,", "port: 49152-65535,")), FACTS, ids).tables
    assert len(made.targets) == len(one.targets)
    assert made.ports.ranges == ((5432, 5432), (9187, 9187), (49152, 65535))
    assert len({made.number_of(port) for port in range(49152, 65536)}) == 1
    assert [made.number_of(port) for port in (80, 5431, 5433, 49151)] == [0] * 4


def test_ports_that_one_service_has_in_one_class_are_one_entry() -> None:
    one = compile_policy(parse_policy(WHOLE), FACTS, Ids()).tables
    more = "port: 80, class: public}, {port: 443, class: public}, {port: 8000-8999, class: public"
    made = compile_policy(parse_policy(WHOLE.replace("port: 80, class: public", more)), FACTS, Ids()).tables
    assert len(made.targets) == len(one.targets)
    assert made.number_of(80) == made.number_of(443) == made.number_of(8999) != 0


def test_a_range_in_a_larger_network_leaves_a_smaller_one_its_port() -> None:
    text = """\
version: 1
services:
  nodes: {product: acme, at: [10.0.0.0/8], ports: [{port: 30000-32767, class: internal}]}
  one: {product: acme, at: [10.1.0.0/16], ports: [{port: 31000, class: admin}]}
"""
    ids = Ids()
    made = compile_policy(parse_policy(text), FACTS, ids).tables
    assert len(made.targets) == 3, "two numbers of the range's, one of which the port has, too"
    found = {
        (address, port): str(row.target) if row else ""
        for address in ("10.1.0.1", "10.2.0.1")
        for port in (29999, 30000, 30999, 31000, 31001, 32767, 32768)
        for row in [row_of_destination(made, Destination(Protocol.TCP, to_address(address), port, 7))]
    }
    assert {where for where, target in found.items() if target == "one/admin"} == {("10.1.0.1", 31000)}
    assert {port for (_, port), target in found.items() if not target} == {29999, 32768}


def test_a_range_of_another_protocol_is_another_range() -> None:
    tcp, udp = "{port: 100-200, class: internal}", "{port: 150-250, class: admin, protocol: udp}"
    text = f"version: 1\nservices:\n  ftp: {{product: acme, ports: [{tcp}, {udp}]}}\n"
    made = compile_policy(parse_policy(text), FACTS, Ids()).tables
    found: dict[tuple[Protocol, str], set[int]] = {}
    for protocol in Protocol:
        for port in (99, 100, 149, 150, 200, 201, 250, 251):
            row = row_of_destination(made, Destination(protocol, to_address("192.0.2.1"), port, 7))
            if row:
                found.setdefault((protocol, str(row.target)), set()).add(port)
    assert found == {
        (Protocol.TCP, "ftp/internal"): {100, 149, 150, 200},
        (Protocol.UDP, "ftp/admin"): {150, 200, 201, 250},
    }


def test_numbers_stay_while_only_the_host_changes() -> None:
    text = WHOLE.replace("web: {", "web: {at: {container: {name: web}}, ")
    made = compile_policy(parse_policy(text), FACTS, Ids()).tables
    assert made.number_of(80) != 0
    assert 80 not in made.ports, "it is nowhere yet"
    assert 5432 in made.ports


@pytest.mark.parametrize(("room", "is_enough"), [(24, True), (23, False)])
def test_more_places_than_the_kernel_has_room_for_are_a_mistake_with_its_line(
    room: int, is_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ports at three addresses, and five places of each namespace; a fourth is as the third."""
    monkeypatch.setattr(claims, "MAX_PLACES", room)
    policy = parse_policy(WHOLE.replace("{port: 80, ", "{port: 443, class: public}, {port: 80, "))
    if is_enough:
        assert len(compile_policy(policy, FACTS, Ids()).tables.targets) == room
        return
    with pytest.raises(PolicyErrors, match=rf":\d+: service 'web': 443/tcp is one too many: .* {room}"):
        compile_policy(policy, FACTS, Ids())


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
        "[{exe: '/opt/a?p/run'}]", replace(FACTS, executables=frozenset({"/opt/app/run", "/bin/sh"}))
    )
    assert member(made, Dimension.EXE, path_hash("/opt/app/run", 42)) == ANYONE | BILLING | OPS
    assert member(made, Dimension.EXE, path_hash("/bin/sh", 42)) == ANYONE | BILLING
    assert made.tables.sets[SetId.MISS + Dimension.EXE] & OPS
    assert not made.tables.sets[SetId.CERTAIN + Uncertain.EXE] & OPS


def test_a_glob_with_one_star_is_certain_for_names_that_nobody_knows() -> None:
    made = compiled("[{exe: ['/opt/a*/run', '/opt/b*/run', '/opt/**/never']}]")
    assert made.tables.sets[SetId.CERTAIN + Uncertain.EXE] & OPS
    assert not made.tables.sets[SetId.MISS + Dimension.EXE] & OPS
    assert made.tables.members[Dimension.EXE_SHAPE, 0] == 1 | 1 << 8, "of both"
    assert (Dimension.EXE_SHAPE, 1) not in made.tables.members


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
    (warning,) = made.of_host
    assert (warning.place.line, warning.reason) == (
        9,
        "principal 'ops': user 'ghost' does not exist on this host",
    )


def test_a_unit_is_known_by_its_name_before_it_runs_wherever_it_will() -> None:
    made = compiled("[{unit: web@1.service}, {unit: cpu.service}]")
    assert member(made, Dimension.UNIT, string_hash("web@1.service", 42)) == ANYONE | OPS
    assert member(made, Dimension.UNIT, string_hash("_cpu.service", 42)) == ANYONE | OPS << 1
    assert member(made, Dimension.UNIT, string_hash("cpu.service", 42)) is None


def test_the_instances_of_a_template_are_known_before_they_run() -> None:
    made = compiled("[{unit: web@*.service}, {unit: web@1.service}]")
    assert member(made, Dimension.UNIT_TEMPLATE, template_hash("web@*.service", 42)) == ANYONE | OPS
    assert member(made, Dimension.UNIT, string_hash("web@1.service", 42)) == ANYONE | OPS | OPS << 1
    assert cgroup_member(made.tables, "/a.slice/web@2.service") == cgroup_member(
        made.tables, "/system.slice/system-web.slice/web@x@y.z.service"
    )
    for other in (
        "/web@.service",
        "/xweb@1.service",
        "/web@1.socket",
        "/web@1",
        "/web@1.service/web@2.service",
    ):
        assert cgroup_member(made.tables, other) is None


def test_a_unit_that_runs_elsewhere_is_known_by_id_and_one_below_another_is_none() -> None:
    facts = replace(
        FACTS, cgroups={"/other.slice/billing.service": 77, "/other.slice/x.service/billing.service": 78}
    )
    made = compiled("[{uid: 1}]", facts)
    assert member(made, Dimension.CGROUP, 77) == ANYONE | BILLING | OPS
    assert member(made, Dimension.CGROUP, 78) is None, "a service cannot name its children after another one"


@pytest.mark.parametrize(
    ("path", "delegated", "containers"),
    [
        ("/given/billing.service", {"/given"}, {}),
        ("/given/a/b/billing.service", {"/given"}, {}),
        ("/billing.service", {"/"}, {}),
        ("/web/billing.service", set(), {"/web": Container("web", "crun", "web", known=True)}),
        ("/lxc.payload.x/system.slice/billing.service", set(), {}),
        ("/lxc/x/system.slice/billing.service", set(), {}),
        ("/lxc/billing.service", set(), {}),
        (f"/docker/{'a' * 64}/billing.service", set(), {}),
    ],
)
def test_a_cgroup_of_a_units_name_that_is_not_this_hosts_is_none(
    path: str, delegated: set[str], containers: dict[str, Container]
) -> None:
    cgroups = {each: number for number, each in enumerate(sorted({*lineage(path), *containers}), start=70)}
    facts = replace(FACTS, cgroups=cgroups, delegated=frozenset(delegated), containers=containers)
    made = compiled("[{uid: 1}]", facts)
    assert member(made, Dimension.CGROUP, cgroups[path]) is None
    assert cgroup_member(made.tables, path) is None
    assert cgroup_member(compiled("[{uid: 1}]").tables, "/x.slice/billing.service") is not None


def test_a_path_that_the_policy_names_counts_whoever_makes_it_and_its_unit_does_not() -> None:
    facts = replace(
        FACTS, cgroups={"/given": 76, "/given/billing.service": 77}, delegated=frozenset({"/given"})
    )
    made = compiled("[{cgroup: /given/billing.service}]", facts)
    assert member(made, Dimension.CGROUP, 77) == ANYONE | OPS
    path = string_hash("/given/billing.service", 42)
    assert member(made, Dimension.CGROUP_GIVEN, path) == ANYONE | OPS
    assert member(made, Dimension.CGROUP_PATH, path) == ANYONE | OPS | BILLING, "once it is root's alone"


def test_a_container_is_marked_and_so_is_the_next_at_its_place() -> None:
    containers = {"/web": Container("web", "crun", "web", known=True), "/x": Container("x", "runc")}
    made = compiled("[{container: web}]", replace(FACTS, cgroups={"/web": 7, "/x": 8}, containers=containers))
    flags = {
        (dimension, value): number & MEMBER_FLAGS
        for (dimension, value), number in made.tables.members.items()
    }
    assert (
        flags[Dimension.CGROUP, 7]
        == flags[Dimension.CGROUP_PATH, string_hash("/web", 42)]
        == MEMBER_CONTAINER
    )
    assert flags[Dimension.CGROUP, 8] == MEMBER_CONTAINER | MEMBER_UNSURE


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
    assert [each.reason for each in compiled(f"[{selector}]", facts).of_host] == [
        f"principal 'ops': {reason}"
    ]


def test_a_selector_that_matches_is_no_warning() -> None:
    facts = replace(FACTS, cgroups={"/system.slice/billing.service/x": 1}, executables=frozenset({"/bin/sh"}))
    made = compiled("[{exe: /bin/*, user: billing}, {exe: /bin/sh}, {exe: '/opt/**/x'}]", facts)
    assert "the kernel cannot match '/opt/**/x'" in made.warnings[0].reason
    assert len(made.warnings) == 1
    assert made.of_host == ()


def test_pods_of_a_node_in_a_container_are_out_of_reach() -> None:
    node = f"/docker/{'a' * 64}"
    pod = f"{node}/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{'b' * 64}.scope"
    facts = replace(
        FACTS,
        cgroups={"/system.slice/billing.service": 1, node: 2, pod: 3},
        containers={node: Container("a" * 64, "docker", "kind-worker", known=True)},
    )
    (warning,) = compiled("[{container: {pod: 'web-*'}}]", facts).of_host
    assert (
        "container kind-worker is a Kubernetes node (kind), and its pods count as that container"
        in warning.reason
    )
    assert compiled("[{container: 'web-*'}]", facts).of_host == ()
    inside = {"/system.slice/billing.service": 1, pod.removeprefix(node): 3}
    there = replace(facts, cgroups=inside, containers={})
    assert compiled("[{container: {pod: 'web-*'}}]", there).of_host == (), "in the node, they are pods"


@pytest.mark.parametrize(
    ("service", "ports"),
    [
        ("owner: [{uid: 1}], ports: [{port: 40000, class: internal}]", "40000"),
        ("owner: [{uid: 1}], ports: [{port: 32760-32770, class: internal}]", "32768-32770"),
        ("owner: [{uid: 1}], ports: [{port: 32767, class: internal}]", ""),
        ("owner: [{uid: 1}], ports: [{port: 40001, class: internal}]", ""),
        ("ports: [{port: 40000, class: internal}]", ""),
        ("owner: [{uid: 1}], at: {container: {name: db}}, ports: [{port: 40000, class: internal}]", ""),
    ],
)
def test_a_port_that_the_kernel_gives_to_anybody_is_a_warning_where_it_has_owners(
    service: str, ports: str
) -> None:
    policy = parse_policy(f"version: 1\nservices:\n  db: {{product: acme, {service}}}\n")
    facts = replace(FACTS, ephemeral=EphemeralPorts(32768, 60999, ((40001, 40001),)))
    found = [one for one in compile_policy(policy, facts, Ids()).of_host if "ip_local_port_range" in str(one)]
    assert [one.remedy.split()[1] for one in found] == ([ports] if ports else [])
    assert all(one.place.line == 3 for one in found)
