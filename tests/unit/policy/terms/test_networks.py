"""Networks of two families in one table of longest prefixes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.model import Address, Network, show_network, to_address, to_network
from agent.policy.tables.flatten import flatten
from agent.policy.terms.networks import covers, holds, is_per_namespace, prefixes_of, without_mapped

NETWORKS = st.sampled_from(
    [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.2.0.0/16",
        "10.2.3.4/32",
        "::/0",
        "8000::/1",
        "fd00::/8",
        "::/64",
        "::1/128",
    ]
).map(to_network)
ADDRESSES = st.sampled_from(
    ["10.2.3.4", "10.2.9.9", "10.9.9.9", "1.1.1.1", "::1", "::7", "fd00::1", "2001:db8::1"]
)


@given(st.lists(st.tuples(NETWORKS, st.integers(0, 7).map(lambda bit: 1 << bit))), ADDRESSES.map(to_address))
def test_the_longest_prefix_has_the_sets_of_every_network_around(
    pairs: list[tuple[Network, int]], address: Address
) -> None:
    flat = flatten(pairs)
    found = next((flat[network] for network in prefixes_of(address) if network in flat), 0)
    expected = 0
    for network, bits in pairs:
        expected |= bits if holds([network], address) else 0
    assert found == expected


def test_all_of_ipv6_holds_no_ipv4_address() -> None:
    everything = to_network("::/0")
    assert not holds([everything], to_address("10.0.0.1"))
    assert holds([everything], to_address("2001:db8::1"))
    assert not covers(everything, to_network("10.0.0.0/8"))
    assert not any(part.supernet_of(to_network("10.0.0.0/8")) for part in without_mapped(everything))


def test_what_means_something_else_in_each_namespace() -> None:
    per_namespace = ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "fe80::1", "febf::1"]
    routable = ["10.0.0.1", "0.0.0.1", "169.254.1.1", "169.255.0.1", "fec0::1", "::2", "128.0.0.1"]
    assert [text for text in per_namespace + routable if is_per_namespace(to_address(text))] == per_namespace


def test_prefixes_of_an_address_come_longest_first() -> None:
    found = list(prefixes_of(to_address("10.0.0.1")))
    assert [show_network(network) for network in found[:2]] == ["10.0.0.1/32", "10.0.0.0/31"]
    assert len(found) == 129
