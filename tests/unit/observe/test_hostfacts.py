from __future__ import annotations

import time

from agent.model import to_address
from agent.observe.addresses import is_link_local, own_addresses
from agent.observe.clock import boot_offset_ns
from agent.observe.hostfacts import clock_synced, gids, uids
from agent.policy.terms.networks import is_loopback


def test_names_the_host_does_not_know_are_left_out() -> None:
    assert uids(["root", "nobody-of-this-name"]) == {"root": 0}
    assert gids(["root", "nobody-of-this-name"]) == {"root": 0}


def test_the_boot_offset_leads_from_boot_time_to_wall_time() -> None:
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert abs(boot_ns + boot_offset_ns() - time.time_ns()) < 1_000_000_000


def test_only_a_clock_before_a_time_that_has_been_is_wrong() -> None:
    assert clock_synced(1_800_000_000, 1_700_000_000)
    assert clock_synced(1_700_000_000, 1_700_000_000)
    assert not clock_synced(1_699_999_999, 1_700_000_000)


def test_mapped_addresses_are_judged_as_what_they_are() -> None:
    assert is_loopback(to_address("127.0.0.53"))
    assert is_loopback(to_address("::1"))
    assert not is_loopback(to_address("10.0.0.1"))
    assert is_link_local(to_address("169.254.1.1"))
    assert is_link_local(to_address("fe80::1"))
    assert not is_link_local(to_address("fd00::1"))


def test_no_loopback_address_is_the_hosts_own() -> None:
    assert not any(is_loopback(address) for address in own_addresses())
