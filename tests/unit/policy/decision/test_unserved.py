"""Declared ports that nobody serves: said where it is known, and nowhere else."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from agent.model import Container, HostFacts, Listener, Namespace, Process, Protocol, Publication, to_address
from agent.policy.decision.unserved import unserved
from agent.policy.document.load import parse_policy

HOST, WEB, OTHER = 1, 2, 3
FACTS = HostFacts(
    host_netns=HOST,
    addresses=(to_address("192.0.2.1"),),
    namespaces=(Namespace(WEB, 20, "/run/netns/web", (to_address("10.2.0.9"),)),),
    containers={"/docker-web": Container("c" * 64, "docker", "web", known=True)},
    container_netns={"/docker-web": WEB},
)
INIT = Process(pid=1, exe="/usr/lib/systemd/systemd")


def listener(
    port: int, *, netns: int = HOST, address: str = "0.0.0.0", protocol: Protocol = Protocol.TCP
) -> Listener:
    return Listener(protocol, socket.AF_INET, to_address(address), port, netns, port, port, False)


def named(
    service: str, *listeners: Listener, facts: HostFacts = FACTS, seen: tuple[int, ...] = (HOST, WEB)
) -> list[str]:
    policy = parse_policy(f"version: 1\nservices: {{db: {{product: p, {service}}}}}\n")
    return [f"{one.target} {one.port}" for one in unserved(policy, listeners, facts, seen)]


PORT = "ports: [{port: 5432, class: internal}]"


def test_a_port_of_this_host_without_a_listener_is_named() -> None:
    assert named(PORT) == ["db/internal 5432/tcp"]
    assert named(PORT, listener(5433), listener(5432, protocol=Protocol.UDP)) == ["db/internal 5432/tcp"]
    assert named(PORT, listener(5432, netns=WEB)) == ["db/internal 5432/tcp"]
    assert named(PORT, listener(5432, address="127.0.0.1")) == []


def test_each_port_is_looked_at_and_of_a_range_one_is_enough() -> None:
    others = "{port: 9187, class: admin}, {port: 27000-27009, class: internal}"
    ports = f"ports: [{{port: 5432, class: internal}}, {others}]"
    assert named(ports, listener(5432), listener(27004)) == ["db/admin 9187/tcp"]
    many = [listener(number) for number in range(30000, 30020)]
    assert named(ports, listener(27009), *many) == ["db/internal 5432/tcp", "db/admin 9187/tcp"]


def test_a_socket_unit_serves_before_its_service_runs() -> None:
    assert named(PORT, replace(listener(5432), owners=(INIT,), activated=True)) == []


@pytest.mark.parametrize(
    "at",
    [
        "at: [10.9.9.9/32]",  # elsewhere
        "at: [10.9.9.9/32, 192.0.2.1/32]",  # perhaps elsewhere
        "at: [192.0.2.0/24]",
        "at: {container: gone}",  # on another host
    ],
)
def test_a_service_that_may_be_elsewhere_is_not_named(at: str) -> None:
    assert named(f"{at}, {PORT}") == []


def test_a_service_at_an_address_of_this_host_is() -> None:
    at = f"at: [192.0.2.1/32], {PORT}"
    assert named(at) == ["db/internal 5432/tcp"]
    assert named(at, listener(5432, address="127.0.0.1")) == ["db/internal 5432/tcp"]
    assert named(at, listener(5432)) == []
    assert named(f"at: [10.2.0.9/32], {PORT}", listener(5432, netns=WEB)) == []


def test_a_service_at_a_container_that_is_here_is() -> None:
    at = f"at: {{container: web}}, {PORT}"
    assert named(at, listener(5432)) == ["db/internal 5432/tcp"]
    assert named(at, listener(5432, netns=WEB)) == []


def test_where_nobody_looked_nothing_is_said() -> None:
    assert named(PORT, seen=(WEB,)) == []
    assert named(f"at: {{container: web}}, {PORT}", seen=(HOST,)) == []


def test_what_leads_into_a_container_or_through_a_proxy_is_served() -> None:
    published = Publication(
        Protocol.TCP, to_address("0.0.0.0"), 5432, (to_address("10.2.0.9"),), 5432, "docker"
    )
    assert named(PORT, facts=replace(FACTS, published=(published,))) == []
    assert named(PORT, facts=replace(FACTS, published=(replace(published, port=1),))) != []
    assert named(PORT, replace(listener(50080), transparent=True)) == []
