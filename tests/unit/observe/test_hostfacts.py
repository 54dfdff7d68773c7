from __future__ import annotations

from agent.model import to_address
from agent.observe.addresses import is_link_local, own_addresses
from agent.observe.hostfacts import gids, uids
from agent.policy.terms.networks import is_loopback


def test_names_the_host_does_not_know_are_left_out() -> None:
    assert uids(["root", "nobody-of-this-name"]) == {"root": 0}
    assert gids(["root", "nobody-of-this-name"]) == {"root": 0}


def test_mapped_addresses_are_judged_as_what_they_are() -> None:
    assert is_loopback(to_address("127.0.0.53"))
    assert is_loopback(to_address("::1"))
    assert not is_loopback(to_address("10.0.0.1"))
    assert is_link_local(to_address("169.254.1.1"))
    assert is_link_local(to_address("fe80::1"))
    assert not is_link_local(to_address("fd00::1"))


def test_no_loopback_address_is_the_hosts_own() -> None:
    assert not any(is_loopback(address) for address in own_addresses())
