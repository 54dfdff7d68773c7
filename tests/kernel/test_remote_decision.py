"""The kernel decides what `evaluate` decides and what the policy says of consumers from elsewhere: real
connections to real listeners, judged when they are established."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from agent.model import Destination, HostFacts, Origin, Protocol, RemoteConsumer, to_address
from agent.policy.compile import compile_policy
from agent.policy.document import parse_policy
from agent.policy.evaluate import evaluate
from agent.policy.ids import Ids
from tests.fixtures import naive, namespaces, policies
from tests.kernel.decision_cases import Translation, named
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


def connections() -> st.SearchStrategy[Connection]:
    def of_family(v6: bool) -> st.SearchStrategy[Connection]:
        return st.builds(
            Connection,
            st.sampled_from([each for each in policies.SOURCES if (":" in each) == v6]),
            st.sampled_from([each for each in SERVED if (":" in each) == v6]),
            st.sampled_from([port for port in policies.PORTS if not (v6 and port == V4_ONLY_PORT)]),
        )

    return st.one_of(of_family(v6=False), of_family(v6=True))


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
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    policies.documents(),
    policies.host_facts(),
    st.integers(0, 6),
    st.lists(connections(), min_size=4, max_size=10),
)
def test_the_kernel_decides_about_addresses_what_the_tables_and_the_policy_say(
    world: World, document: dict[str, Any], drawn: HostFacts, hour: int, attempts: list[Connection]
) -> None:
    text = yaml.safe_dump(document, sort_keys=False)
    facts, ids = Translation(world).facts(drawn, hour), Ids()
    note(f"{text}\n{facts}")
    policy = parse_policy(text)
    tables = compile_policy(policy, facts, ids).tables
    world.install(tables)
    for attempt in attempts:
        consumer = RemoteConsumer(to_address(attempt.source))
        destination = Destination(Protocol.TCP, to_address(attempt.address), attempt.port, facts.host_netns)
        seen = world.changes(partial(connect, world, attempt))
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        verdict = evaluate(tables, consumer, destination, now_ns)
        note(f"{consumer}\n{destination}\n{verdict}")
        judged = Judged(verdict, Origin.REMOTE, Protocol.TCP)
        assert seen == (Seen({judged: 1}) if verdict.target else Seen(inbound=1))
        assert named(verdict, ids) == naive.judge(policy, facts, consumer, destination, now_ns)
