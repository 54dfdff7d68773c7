"""Listeners: declared at all, served by the right process, open no wider than allowed."""

from __future__ import annotations

import dataclasses
import socket
from typing import Any

import pytest

from agent.model import (
    Address,
    Container,
    HostFacts,
    Listener,
    ListenerState,
    Namespace,
    PortClass,
    Process,
    Protocol,
    Publication,
    Target,
    to_address,
)
from agent.policy.decision.listeners import facts_judged_by, in_scope, judge_listener
from agent.policy.document.load import parse_policy
from agent.policy.values import Policy

POLICY = parse_policy("""\
version: 1
services:
  db:
    product: acme
    owner: [{unit: postgresql.service}, {user: postgres, exe: /usr/lib/postgresql/*}]
    ports:
      - {port: 5432, class: internal}
      - {port: 9187, class: admin, bind: [127.0.0.0/8]}
      - {port: 80, class: public}
      - {port: 5353, class: internal, protocol: udp}
      - {port: 7000, class: internal, bind: [0.0.0.0/0]}
      - {port: 7001, class: internal, bind: [0.0.0.0/0, '::/0']}
      - {port: 7002, class: public, bind: [10.0.0.0/8]}
  inside: {product: acme, at: [10.9.0.0/16], ports: [{port: 6000, class: internal}]}
""")
FACTS = HostFacts(
    host_netns=7,
    addresses=(to_address("192.0.2.1"),),
    namespaces=(
        Namespace(8, 80, "/run/netns/c", (to_address("10.9.0.2"),)),
        Namespace(9, 90, "/run/netns/d"),
    ),
    users={"postgres": 70},
)
POSTGRES = Process(pid=1, comm="postgres", cgroup="/system.slice/postgresql.service/main")


def listener(
    address: str,
    port: int = 5432,
    *owners: Process,
    netns: int = 7,
    v6only: bool = False,
    protocol: Protocol = Protocol.TCP,
) -> Listener:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return Listener(protocol, family, to_address(address), port, netns, 1, 1, v6only, owners)


def states(found: Listener, policy: Policy | None = POLICY) -> tuple[ListenerState, ...]:
    return judge_listener(policy, found, FACTS).states


def test_a_declared_listener_has_nothing_to_explain() -> None:
    judged = judge_listener(POLICY, listener("127.0.0.1", 5432, POSTGRES), FACTS)
    assert (judged.service, judged.port_class) == ("db", "internal")
    assert judged.states == (ListenerState.DECLARED,)
    assert judged.explanation == ""


@pytest.mark.parametrize(
    ("opener", "activated", "state"),
    [
        (None, False, ListenerState.OWNER_UNKNOWN),
        (POSTGRES, False, ListenerState.OWNER_UNKNOWN),
        (Process(pid=9, exe="/usr/bin/nc", cgroup="/user.slice"), False, ListenerState.OWNER_MISMATCH),
        (Process(pid=1, comm="systemd", cgroup="/init.scope"), True, ListenerState.OWNER_UNKNOWN),
    ],
)
def test_of_a_listener_that_nobody_is_known_to_hold(
    opener: Process | None, activated: bool, state: ListenerState
) -> None:
    unheld = dataclasses.replace(listener("127.0.0.1"), opener=opener, activated=activated)
    assert states(unheld) == (state,)


def test_who_may_be_served_by_anybody_is_declared_whoever_holds_it() -> None:
    by_anybody = parse_policy(
        "{version: 1, services: {db: {product: acme, ports: [{port: 5432}]}}}".replace(
            "5432", "5432, class: internal"
        )
    )
    assert states(listener("127.0.0.1"), by_anybody) == (ListenerState.DECLARED,)


def test_a_port_that_no_service_declares_is_undeclared() -> None:
    judged = judge_listener(POLICY, listener("0.0.0.0", 6379), FACTS)
    assert (judged.service, judged.port_class, judged.states) == ("", "", (ListenerState.UNDECLARED,))
    assert "0.0.0.0:6379/tcp" in judged.explanation


def test_protocols_are_declared_apart() -> None:
    assert states(listener("127.0.0.1", 5432, protocol=Protocol.UDP)) == (ListenerState.UNDECLARED,)
    assert states(listener("127.0.0.1", 5353, POSTGRES, protocol=Protocol.UDP)) == (ListenerState.DECLARED,)


def test_without_a_policy_nothing_is_judged() -> None:
    judged = judge_listener(None, listener("0.0.0.0"), FACTS)
    assert (judged.states, judged.bind) == ((), "any")


def test_another_namespace_has_its_own_ports() -> None:
    assert states(listener("0.0.0.0", 5432, netns=8)) == ()
    assert states(listener("0.0.0.0", 6379, netns=8)) == ()


def test_a_service_at_a_containers_address_is_judged_there() -> None:
    assert states(listener("10.9.0.2", 6000, netns=8)) == (ListenerState.DECLARED,)
    assert states(listener("0.0.0.0", 6000, netns=8)) == (ListenerState.DECLARED,)
    assert states(listener("0.0.0.0", 6000, netns=9)) == (), "this one has no such address"
    assert states(listener("::", 6000, netns=8, v6only=True)) == (), "takes no IPv4"


@pytest.mark.parametrize(
    ("address", "port", "exposed"),
    [
        ("127.0.0.1", 5432, False),
        ("::1", 5432, False),
        ("10.1.2.3", 5432, False),
        ("100.64.0.1", 5432, False),
        ("fd00::1", 5432, False),
        ("fe80::1", 5432, False),
        ("192.0.2.1", 5432, True),
        ("2001:db8::1", 5432, True),
        ("0.0.0.0", 5432, True),
        ("::", 5432, True),
        ("127.0.0.1", 9187, False),
        ("10.1.2.3", 9187, True),
        ("::1", 9187, True),
        ("0.0.0.0", 80, False),
        ("::", 80, False),
        ("0.0.0.0", 7000, False),
        ("::", 7000, True),
        ("::", 7001, False),
        ("10.1.2.3", 7002, False),
        ("0.0.0.0", 7002, True),
    ],
)
def test_a_listener_wider_than_its_scope_is_exposed(address: str, port: int, exposed: bool) -> None:
    expected = ListenerState.EXPOSED if exposed else ListenerState.DECLARED
    assert states(listener(address, port, POSTGRES)) == (expected,)


def test_an_ipv6_only_wildcard_is_not_an_ipv4_one() -> None:
    policy = parse_policy(
        "version: 1\nservices: {x: {product: p, ports: [{port: 1, class: internal, bind: ['::/0']}]}}\n"
    )
    assert states(listener("::", 1, v6only=True), policy) == (ListenerState.DECLARED,)
    assert states(listener("::", 1), policy) == (ListenerState.EXPOSED,)


def test_the_explanation_of_an_exposure_names_scope_rule_and_remedy() -> None:
    explanation = judge_listener(POLICY, listener("0.0.0.0", 9187), FACTS).explanation
    for part in ("0.0.0.0:9187/tcp", "127.0.0.0/8", "policy.yaml:8", "widen `bind`"):
        assert part in explanation


@pytest.mark.parametrize(
    ("owners", "state"),
    [
        ((POSTGRES,), ListenerState.DECLARED),
        ((Process(pid=2, uid=70, exe="/usr/lib/postgresql/postgres", cgroup="/x"),), ListenerState.DECLARED),
        ((Process(pid=2, uid=70, exe="/tmp/postgres", cgroup="/x"),), ListenerState.OWNER_MISMATCH),
        (
            (Process(pid=2, uid=71, exe="/usr/lib/postgresql/postgres", cgroup="/x"),),
            ListenerState.OWNER_MISMATCH,
        ),
        ((Process(pid=1, uid=0, exe="/sbin/init", cgroup="/init.scope"), POSTGRES), ListenerState.DECLARED),
        (
            (Process(pid=2, uid=71, exe="/x", cgroup="/a.service/postgresql.service"),),
            ListenerState.OWNER_MISMATCH,
        ),
        ((), ListenerState.OWNER_UNKNOWN),
        ((Process(pid=2),), ListenerState.OWNER_UNKNOWN),
        ((Process(pid=2), dataclasses.replace(POSTGRES, pid=3)), ListenerState.DECLARED),
    ],
    ids=[
        "unit",
        "user and exe",
        "wrong exe",
        "wrong user",
        "passed on",
        "forged unit",
        "not found",
        "not known",
        "one of them not known",
    ],
)
def test_only_a_known_process_that_is_no_owner_is_a_mismatch(
    owners: tuple[Process, ...], state: ListenerState
) -> None:
    assert states(listener("127.0.0.1", 5432, *owners)) == (state,)


@pytest.mark.parametrize(
    ("child", "state"),
    [
        (Process(exe="/lib/systemd/systemd", cgroup="/system.slice/cron.service"), ListenerState.DECLARED),
        (Process(exe="/lib/systemd/systemd-executor", cgroup="/init.scope"), ListenerState.DECLARED),
        (Process(exe="/usr/sbin/cron", cgroup="/system.slice/cron.service"), ListenerState.OWNER_MISMATCH),
        (
            Process(
                exe="/lib/systemd/systemd",
                cgroup="/user.slice/user@0.service/init.scope",
                unit="user@0.service",
            ),
            ListenerState.OWNER_MISMATCH,
        ),
        (
            Process(exe="/lib/systemd/systemd", cgroup="/system.slice/cron.service", uid=9),
            ListenerState.OWNER_MISMATCH,
        ),
    ],
    ids=["about to run another program", "executor", "a program", "user manager", "another user"],
)
def test_what_pid_1_is_about_to_start_serves_nothing(child: Process, state: ListenerState) -> None:
    """A copy of pid 1 holds its sockets until it runs its own program."""
    init = Process(pid=1, uid=0, exe="/lib/systemd/systemd", cgroup="/init.scope")
    child = dataclasses.replace(child, pid=20, uid=child.uid or 0)
    found = dataclasses.replace(listener("127.0.0.1", 5432, init, child), activated=True)
    assert states(found) == (state,)


def test_a_listener_can_be_wrong_in_two_ways() -> None:
    nc = Process(pid=2, uid=9, exe="/usr/bin/nc", cgroup="/user.slice")
    judged = judge_listener(POLICY, listener("0.0.0.0", 5432, nc), FACTS)
    assert judged.states == (ListenerState.OWNER_MISMATCH, ListenerState.EXPOSED)
    assert "/usr/bin/nc" in judged.explanation


@pytest.mark.parametrize(
    ("address", "bind"),
    [("127.0.0.1", "loopback"), ("::1", "loopback"), ("10.0.0.1", "private"), ("fe80::1", "private"),
     ("192.0.2.1", "public"), ("2001:db8::1", "public"), ("0.0.0.0", "any"), ("::", "any")],
)  # fmt: skip
def test_how_wide_a_listener_is_bound(address: str, bind: str) -> None:
    assert judge_listener(POLICY, listener(address), FACTS).bind == bind


@pytest.mark.parametrize(
    ("target", "peer", "inside"),
    [
        (Target("db", PortClass.PUBLIC), "203.0.113.1", True),
        (Target("db", PortClass.ADMIN), "127.0.0.1", True),
        (Target("db", PortClass.ADMIN), "10.0.0.1", False),
        (Target("inside", PortClass.INTERNAL), "10.200.0.1", True),
        (Target("inside", PortClass.INTERNAL), "203.0.113.1", False),
        (Target("gone", PortClass.INTERNAL), "203.0.113.1", True),
    ],
)
def test_a_peer_from_outside_the_scope_is_evidence(target: Target, peer: str, inside: bool) -> None:
    assert in_scope(POLICY, target, to_address(peer)) is inside


@pytest.mark.parametrize(
    ("bind", "peer", "inside"),
    [("127.0.0.1", "10.0.0.1", False), ("10.0.0.5", "10.0.0.9", True), ("10.0.0.5", "203.0.113.1", False),
     ("203.0.113.5", "198.51.100.1", True)],
)  # fmt: skip
def test_a_single_address_to_bind_to_says_which_side_peers_come_from(
    bind: str, peer: str, inside: bool
) -> None:
    policy = parse_policy(
        f"version: 1\nservices: {{x: {{product: p, ports: [{{port: 1, class: admin, bind: ['{bind}']}}]}}}}\n"
    )
    assert in_scope(policy, Target("x", PortClass.ADMIN), to_address(peer)) is inside


def test_a_service_at_a_container_is_judged_where_it_is_and_by_its_owner() -> None:
    policy = parse_policy(
        "version: 1\nservices:\n  inside:\n    product: acme\n    at: {container: db-*}\n"
        '    owner: [{container: {name: db-*, image: "postgres:*"}}]\n'
        "    ports: [{port: 6000, class: internal}]\n"
    )
    right = Container("1", "docker", "db-1", "docker.io/library/postgres:16", known=True)
    wrong = dataclasses.replace(right, image="socat:1")
    facts = dataclasses.replace(FACTS, containers={"/docker/1": right}, container_netns={"/docker/1": 9})

    def judged(container: Container | None, netns: int = 9) -> tuple[ListenerState, ...]:
        process = Process(pid=2, comm="postgres", cgroup="/docker/1", container=container)
        return judge_listener(policy, listener("127.0.0.1", 6000, process, netns=netns), facts).states

    assert judged(right) == (ListenerState.DECLARED,)
    assert judged(wrong) == judged(None) == (ListenerState.OWNER_MISMATCH,)
    assert judged(Container("2")) == (ListenerState.OWNER_UNKNOWN,), "whose it is, is not known"
    assert judged(right, netns=8) == (), "another namespace"
    assert judged(right, netns=7) == (ListenerState.UNDECLARED,), "the host"


@pytest.mark.parametrize(
    ("holders", "made_by", "expected"),
    [
        ((), 1202, ListenerState.OWNER_MISMATCH),
        ((dataclasses.replace(POSTGRES, uid=70),), 1202, ListenerState.OWNER_MISMATCH),
        ((dataclasses.replace(POSTGRES, uid=70),), 70, ListenerState.DECLARED),
        ((dataclasses.replace(POSTGRES, uid=70),), 0, ListenerState.DECLARED),
    ],
    ids=["hidden", "left to an owner", "the owner's own", "from root"],
)
def test_a_strangers_listener_is_an_owners_where_he_made_it_or_root_did(
    holders: tuple[Process, ...], made_by: int, expected: ListenerState
) -> None:
    holders = tuple(dataclasses.replace(one, pid=20) for one in holders)
    found = dataclasses.replace(listener("127.0.0.1", 5432, *holders), uid=made_by, strange=True)
    assert states(found) == (expected,)
    known = ListenerState.DECLARED if holders else ListenerState.OWNER_UNKNOWN
    assert states(dataclasses.replace(found, strange=False)) == (known,)
    assert states(dataclasses.replace(found, activated=True, owners=())) == (ListenerState.OWNER_UNKNOWN,)


AT_HOME = parse_policy("""\
version: 1
services:
  db:
    product: acme
    at: {container: db}
    ports: [{port: 5432, class: internal}, {port: 80, class: public}]
""")
INSIDE, OUTSIDE = to_address("172.17.0.2"), to_address("203.0.113.9")
DB = Container("1", "docker", "db", known=True)


def container_facts(*published: Publication, addresses: tuple[Address, ...] = (INSIDE,)) -> HostFacts:
    return dataclasses.replace(
        FACTS,
        namespaces=(Namespace(9, 90, "/run/netns/d", addresses),),
        containers={"/docker/1": DB},
        container_netns={"/docker/1": 9},
        published=published,
    )


def publication(address: str, port: int = 5432, to_port: int = 5432, to: Address = INSIDE) -> Publication:
    return Publication(Protocol.TCP, to_address(address), port, (to,), to_port, "/var/lib/docker/x")


def in_container(address: str, port: int = 5432, **facts: Any) -> ListenerState:
    published = facts.pop("published", ())
    judged = judge_listener(AT_HOME, listener(address, port, netns=9), container_facts(*published, **facts))
    (state,) = judged.states
    return state


@pytest.mark.parametrize(
    ("address", "addresses", "state"),
    [
        ("0.0.0.0", (INSIDE,), ListenerState.DECLARED),
        ("::", (INSIDE, to_address("fd00::2")), ListenerState.DECLARED),
        ("0.0.0.0", (), ListenerState.DECLARED),
        ("0.0.0.0", (INSIDE, OUTSIDE), ListenerState.EXPOSED),
        ("::", (INSIDE, to_address("2001:db8::9")), ListenerState.EXPOSED),
        ("0.0.0.0", (INSIDE, to_address("2001:db8::9")), ListenerState.DECLARED),
        ("203.0.113.9", (INSIDE, OUTSIDE), ListenerState.EXPOSED),
    ],
)
def test_in_a_container_a_wildcard_reaches_as_far_as_its_addresses(
    address: str, addresses: tuple[Address, ...], state: ListenerState
) -> None:
    assert in_container(address, addresses=addresses) is state


@pytest.mark.parametrize(
    ("published", "state"),
    [
        (publication("0.0.0.0"), ListenerState.EXPOSED),
        (publication("::"), ListenerState.EXPOSED),
        (publication("0.0.0.0", 15432), ListenerState.EXPOSED),
        (publication("192.0.2.1"), ListenerState.EXPOSED),
        (publication("127.0.0.1"), ListenerState.DECLARED),
        (publication("192.168.7.1"), ListenerState.DECLARED),
        (publication("0.0.0.0", 5432, 5433), ListenerState.DECLARED),
        (publication("0.0.0.0", to=to_address("172.17.0.3")), ListenerState.DECLARED),
    ],
)
def test_a_published_port_exposes_what_it_leads_to(published: Publication, state: ListenerState) -> None:
    assert in_container("0.0.0.0", published=(published,)) is state
    assert in_container("0.0.0.0", 80, published=(published,)) is ListenerState.DECLARED


def test_the_explanation_names_the_published_port_and_who_says_so() -> None:
    facts = container_facts(publication("0.0.0.0", 15432))
    explanation = judge_listener(AT_HOME, listener("0.0.0.0", netns=9), facts).explanation
    for part in ("db/internal is published at 0.0.0.0:15432/tcp", "/var/lib/docker/x", "policy.yaml:6"):
        assert part in explanation
    assert "listens on" not in explanation


def proxy(arguments: str = "", *, uid: int = 0, name: str = "docker-proxy") -> Process:
    exe = f"/usr/bin/{name}"
    return Process(
        pid=70, exe=exe, uid=uid, args=(exe, *arguments.split()), cgroup="/system.slice/docker.service"
    )


TO_DB = "-proto tcp -host-ip 0.0.0.0 -host-port 5432 -container-ip 172.17.0.2 -container-port 5432"


@pytest.mark.parametrize(
    ("process", "published", "address", "service", "state"),
    [
        (proxy(TO_DB), (), "0.0.0.0", "db", ListenerState.EXPOSED),
        (proxy(TO_DB + " -use-listen-fd"), (), "127.0.0.1", "db", ListenerState.DECLARED),
        (proxy(), (publication("0.0.0.0"),), "0.0.0.0", "db", ListenerState.EXPOSED),
        (proxy(name="conmon"), (publication("0.0.0.0"),), "0.0.0.0", "db", ListenerState.EXPOSED),
        (proxy(TO_DB, uid=1000), (), "0.0.0.0", "", ListenerState.UNDECLARED),
        (proxy(TO_DB, name="nc"), (publication("0.0.0.0"),), "0.0.0.0", "", ListenerState.UNDECLARED),
        (proxy(TO_DB.replace("0.2", "0.9")), (), "0.0.0.0", "", ListenerState.UNDECLARED),
        (proxy(TO_DB.replace("tcp", "udp")), (), "0.0.0.0", "", ListenerState.UNDECLARED),
        (proxy("-container-port"), (), "0.0.0.0", "", ListenerState.UNDECLARED),
    ],
)
def test_a_runtimes_proxy_on_the_host_is_the_target_that_it_leads_to(
    process: Process,
    published: tuple[Publication, ...],
    address: str,
    service: str,
    state: ListenerState,
) -> None:
    judged = judge_listener(AT_HOME, listener(address, 5432, process), container_facts(*published))
    assert (judged.service, judged.states) == (service, (state,))


def test_a_wildcard_of_the_host_stays_an_exposure() -> None:
    assert states(listener("0.0.0.0", 5432, POSTGRES)) == (ListenerState.EXPOSED,)


OWNERS = (
    "{user: postgres, exe: /usr/lib/postgresql/*}",
    "{group: postgres}",
    "{unit: postgresql.service}",
    "{cgroup: /system.slice/a}",
    "{container: '*'}",
    "{cidr: [10.9.0.0/16]}",
)


class ReadFacts(HostFacts):
    """Notes which facts are read."""

    def __getattribute__(self, name: str) -> Any:
        if name in HostFacts.__dataclass_fields__:
            read.add(name)
        return super().__getattribute__(name)


read: set[str] = set()


def test_what_is_compared_between_two_looks_is_all_that_judging_reads() -> None:
    container = Container("1", "docker", "db-1", known=True)
    facts = ReadFacts(
        **{name: getattr(FACTS, name) for name in HostFacts.__dataclass_fields__}
        | {
            "containers": {"/docker/1": container},
            "container_netns": {"/docker/1": 9},
            "published": (Publication(Protocol.TCP, OUTSIDE, 8080, (INSIDE,), 80, "state"),),
        }
    )
    process = Process(pid=2, exe="/usr/bin/docker-proxy", uid=0, gid=0, cgroup="/a.service", netns=8)
    here = to_address("192.0.2.1")
    read.clear()
    for owner in OWNERS:
        for at in ("", "at: {container: db-*},", "at: [10.9.0.0/16],"):
            policy = parse_policy(
                f"version: 1\nservices: {{db: {{product: p, {at} owner: [{owner}], "
                "ports: [{port: 5432, class: internal}]}}\n"
            )
            for netns in (7, 8, 9):
                for address in ("0.0.0.0", str(here), "10.9.0.2"):
                    judge_listener(policy, listener(address, 5432, process, netns=netns), facts)
    judged_by = set(read)
    assert {"host_netns", "namespaces", "users", "groups", "containers", "published"} <= judged_by
    read.clear()
    facts_judged_by(facts, ())
    assert judged_by <= read


@pytest.mark.parametrize(
    ("changes", "matters"),
    [
        ({"delegated": frozenset({"/user.slice/user-1.slice"})}, False),
        ({"delegated": frozenset({"/system.slice"})}, True),
        ({"delegated": frozenset({"/"})}, True),
        ({"containers": {"/kubepods/other": DB}}, False),
        ({"containers": {"/system.slice/postgresql.service": DB}}, True),
        ({"containers": {"/docker/1": DB}, "container_netns": {"/docker/1": 9}}, True),
        ({"users": {"postgres": 71}}, True),
        ({"cgroups": {"/system.slice": 1}, "gathered_boot_ns": 1}, False),
    ],
    ids=str,
)
def test_of_cgroups_those_above_a_holder_and_of_services_matter(
    changes: dict[str, Any], matters: bool
) -> None:
    changed = dataclasses.replace(FACTS, **changes)
    cgroups = (POSTGRES.cgroup, "")
    assert (facts_judged_by(changed, cgroups) != facts_judged_by(FACTS, cgroups)) is matters
    if not matters:
        for address in ("0.0.0.0", "127.0.0.1"):
            one = listener(address, 5432, POSTGRES)
            assert judge_listener(POLICY, one, changed) == judge_listener(POLICY, one, FACTS)
