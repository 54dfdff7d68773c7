from __future__ import annotations

import itertools
import socket
from typing import Any

from agent.model import Address, Listener, Protocol, Socket, to_address
from agent.observe.connections import Connection, ListenersByPort, covers
from agent.observe.connections import pair as pair_ends
from agent.observe.sockets import ESTABLISHED, SYN_SENT

_numbers = itertools.count(1000)


def end(local: str, local_port: int, remote: str, remote_port: int, **changes: Any) -> Socket:
    number = next(_numbers)
    values: dict[str, Any] = {
        "protocol": Protocol.TCP,
        "family": socket.AF_INET6 if ":" in local else socket.AF_INET,
        "state": ESTABLISHED,
        "local": to_address(local),
        "local_port": local_port,
        "remote": to_address(remote),
        "remote_port": remote_port,
        "inode": number,
        "cookie": number,
        "uid": 0,
        "netns": 1,
    }
    return Socket(**(values | changes))


def listener(address: str = "0.0.0.0", port: int = 5432, **changes: Any) -> Listener:
    values: dict[str, Any] = {
        "protocol": Protocol.TCP,
        "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
        "address": to_address(address),
        "port": port,
        "netns": 1,
        "cookie": next(_numbers),
        "inode": next(_numbers),
        "v6only": False,
    }
    return Listener(**(values | changes))


def pair(sockets: list[Socket], ports: set[int], listeners: list[Listener]) -> list[Connection]:
    return pair_ends(sockets, ports, ListenersByPort(listeners))


def test_two_ends_on_this_host_are_one_connection() -> None:
    consumer = end("127.0.0.1", 40000, "127.0.0.1", 5432)
    server = end("127.0.0.1", 5432, "127.0.0.1", 40000)
    for sockets in ([consumer, server], [server, consumer]):
        assert pair(sockets, {5432}, [listener()]) == [Connection(consumer, server)]


def test_a_mapped_consumer_and_a_plain_server_are_one_connection() -> None:
    consumer = end("::ffff:127.0.0.1", 40000, "::ffff:127.0.0.1", 5432)
    server = end("127.0.0.1", 5432, "127.0.0.1", 40000)
    assert pair([consumer, server], {5432}, [listener()]) == [Connection(consumer, server)]


def test_an_end_elsewhere_is_none() -> None:
    server = end("10.0.0.1", 5432, "10.0.0.9", 40000)
    consumer = end("10.0.0.1", 40001, "10.0.0.7", 5432)
    found = pair([server, consumer], {5432}, [listener()])
    assert found == [Connection(None, server), Connection(consumer, None)]
    assert found[0].consumer_endpoint == (to_address("10.0.0.9"), 40000)
    assert found[0].server_endpoint == (to_address("10.0.0.1"), 5432)
    assert found[1].consumer_endpoint == (to_address("10.0.0.1"), 40001)
    assert found[1].server_endpoint == (to_address("10.0.0.7"), 5432)


def test_ends_in_two_namespaces_are_one_connection() -> None:
    consumer = end("10.0.0.2", 40000, "10.0.0.1", 5432, netns=2)
    server = end("10.0.0.1", 5432, "10.0.0.2", 40000)
    assert pair([consumer, server], {5432}, [listener()]) == [Connection(consumer, server)]


def test_loopback_of_one_namespace_is_not_that_of_another() -> None:
    consumer = end("127.0.0.1", 40000, "127.0.0.1", 5432, netns=2)
    server = end("127.0.0.1", 5432, "127.0.0.1", 40000)
    found = pair([consumer, server], {5432}, [listener()])
    assert sorted(found, key=lambda one: one.server is None) == [
        Connection(None, server),
        Connection(consumer, None),
    ]


def test_one_tuple_in_two_places_is_not_guessed_at() -> None:
    consumer = end("10.0.0.2", 40000, "10.0.0.1", 5432, netns=2)
    servers = [end("10.0.0.1", 5432, "10.0.0.2", 40000, netns=netns) for netns in (1, 3)]
    found = pair([consumer, *servers], {5432}, [listener(), listener(netns=3)])
    assert len(found) == 3
    assert all(one.server is None or one.consumer is None for one in found)


def test_a_consumer_that_was_given_a_declared_port_is_no_server() -> None:
    outbound = end("10.0.0.1", 33000, "10.0.0.9", 443)
    assert pair([outbound], {33000}, []) == []
    assert pair([outbound], {33000}, [listener(port=33000, address="127.0.0.1")]) == []
    assert pair([outbound], {33000, 443}, []) == [Connection(outbound, None)]


def test_a_consumer_whose_own_port_is_declared_is_not_what_its_server_connects_to() -> None:
    server = end("10.0.0.1", 5432, "10.0.0.9", 40000)
    assert pair([server], {40000}, [listener()]) == []
    assert pair([server], {40000}, []) == []


def test_a_server_whose_listener_is_closed_is_still_a_server() -> None:
    server = end("10.0.0.1", 5432, "10.0.0.9", 40000)
    assert pair([server], {5432}, []) == [Connection(None, server)]


def test_a_connection_between_two_declared_ports_goes_to_the_one_that_is_listened_on() -> None:
    server = end("127.0.0.1", 5432, "127.0.0.1", 6379)
    consumer = end("127.0.0.1", 6379, "127.0.0.1", 5432)
    assert pair([consumer, server], {5432, 6379}, [listener()]) == [Connection(consumer, server)]


def test_a_connection_that_is_being_made_is_a_consumers() -> None:
    consumer = end("10.0.0.1", 5432, "10.0.0.9", 5432, state=SYN_SENT)
    assert pair([consumer], {5432}, [listener()]) == [Connection(consumer, None)]


def test_a_listener_covers_what_could_come_from_it() -> None:
    v4, v6 = end("10.0.0.1", 5432, "10.0.0.9", 1), end("fd00::1", 5432, "fd00::9", 1)
    assert covers(listener(), v4)
    assert not covers(listener(), v6)
    assert covers(listener("::"), v4)
    assert covers(listener("::"), v6)
    assert not covers(listener("::", v6only=True), v4)
    assert covers(listener("::", v6only=True), v6)
    assert covers(listener("10.0.0.1"), v4)
    assert not covers(listener("10.0.0.2"), v4)
    assert not covers(listener(port=1), v4)
    assert not covers(listener(netns=2), v4)
    assert not covers(listener(protocol=Protocol.UDP), v4)
    assert covers(listener(address="::ffff:0.0.0.0", family=socket.AF_INET6), v4)
    assert Address(0) != to_address("0.0.0.0")
