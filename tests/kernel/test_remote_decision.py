"""The kernel decides what `evaluate` decides and what the policy says of consumers from elsewhere: real
connections to real listeners, judged when they are established."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from agent.model import Destination, HostFacts, Origin, Protocol, Reason, RemoteConsumer, to_address
from agent.policy.decision.evaluate import evaluate
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from tests.fixtures import naive, namespaces, policies
from tests.kernel.decision_cases import Translation, documents_about_who, named
from tests.kernel.decision_world import Judged, Seen, World

pytestmark = pytest.mark.root

V4_ONLY_PORT = policies.PORTS[-1]
"""Its listener is an AF_INET socket. The others' are AF_INET6 ones, which take IPv4, too."""
SERVED = [
    address
    for address in policies.ADDRESSES
    if not naive.local_to_namespace(to_address(address))  # from elsewhere there is no way to those
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The remote namespace has every source address, the host every destination, and both a way back."""
    with World() as made:
        host, remote = made.lab.host, made.lab.remote
        _own(host, SERVED)
        _own(remote, policies.SOURCES)
        for source in policies.SOURCES:
            via = remote.v6 if ":" in source else remote.v4
            namespaces.ip("-n", host.name, "route", "add", source, "via", via)
        for port in policies.PORTS:
            made.lab.serve(host, "0.0.0.0" if port == V4_ONLY_PORT else "::", port)
        yield made


def _own(place: namespaces.Namespace, addresses: list[str]) -> None:
    for address in addresses:
        length, nodad = (128, ["nodad"]) if ":" in address else (32, [])
        namespaces.ip("-n", place.name, "address", "add", f"{address}/{length}", "dev", "lo", *nodad)


@dataclass(frozen=True, slots=True)
class Connection:
    source: str
    address: str
    port: int

    @property
    def destination(self) -> Destination:
        host = policies.HOST
        return Destination(Protocol.TCP, to_address(self.address), self.port, host, delivered_in=host)


CONNECTIONS = [
    Connection(source, address, port)
    for source in policies.SOURCES
    for address in SERVED
    for port in policies.PORTS
    if (":" in source) == (":" in address) and (":" not in address or port != V4_ONLY_PORT)
]


@dataclass(frozen=True, slots=True)
class Case:
    document: dict[str, Any]
    states: list[Reason | None]
    facts: HostFacts
    connections: list[Connection]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Most connections go to what the policy declares."""
    by_address = st.one_of(
        st.fixed_dictionaries({"cidr": policies.some(policies.CIDRS)}), policies.selectors()
    )
    beside = policies.renewals(by_address)
    document = draw(st.one_of(policies.documents(), documents_about_who(by_address), beside))
    facts = draw(policies.host_facts())
    policy = parse_policy(yaml.safe_dump(document))
    declared = [each for each in CONNECTIONS if naive.find_target(policy, facts, each.destination)]
    to = st.sampled_from(declared or CONNECTIONS)
    made = st.lists(st.one_of(to, to, to, st.sampled_from(CONNECTIONS)), min_size=4, max_size=8)
    return Case(document, draw(policies.states()), facts, draw(made))


def connect(world: World, connection: Connection) -> None:
    """When this returns the server has accepted it: a byte has come back."""
    family = socket.AF_INET6 if ":" in connection.address else socket.AF_INET
    with namespaces.entered(world.lab.remote), socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.bind((connection.source, 0))
        client.connect((connection.address, connection.port))
        client.sendall(b"x")
        assert client.recv(1) == b"x"


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases(), st.integers(0, 6))
def test_the_kernel_decides_about_addresses_what_the_tables_and_the_policy_say(
    world: World, case: Case, hour: int
) -> None:
    text = yaml.safe_dump(case.document, sort_keys=False)
    facts, ids = Translation(world).facts(case.facts, hour), Ids()
    note(f"{text}\n{facts}")
    policy = policies.with_states(parse_policy(text), case.states)
    tables = compile_policy(policy, facts, ids).tables
    world.install(tables)
    for connection in case.connections:
        consumer = RemoteConsumer(to_address(connection.source))
        here = facts.host_netns
        destination = replace(connection.destination, netns=here, delivered_in=here)
        seen = world.changes(partial(connect, world, connection))
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        verdict = evaluate(tables, consumer, destination, now_ns)
        note(f"{consumer}\n{destination}\n{verdict}")
        judged = Judged(verdict, Origin.REMOTE, Protocol.TCP)
        assert seen == (Seen({judged: 1}) if verdict.target else Seen(inbound=1))
        assert named(verdict, ids) == naive.judge(policy, facts, consumer, destination, now_ns)
