"""Flattens networks into a longest-prefix table."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model import Network
from agent.policy.terms.networks import without_mapped


def flatten(pairs: Iterable[tuple[Network, int]]) -> dict[Network, int]:
    """Joins to each network's own set those of all networks around it, so that the longest match is the whole
    answer. One sort and one pass: a list of 100,000 addresses is an ordinary one."""
    own: dict[Network, int] = {}
    for network, bits in pairs:
        for part in without_mapped(network):
            own[part] = own.get(part, 0) | bits
    spans = sorted(
        (int(network.network_address), network.prefixlen, network, bits) for network, bits in own.items()
    )
    flat: dict[Network, int] = {}
    around: list[tuple[int, int]] = []
    for start, length, network, bits in spans:
        while around and around[-1][0] < start:
            around.pop()
        bits |= around[-1][1] if around else 0
        flat[network] = bits
        around.append((start | (1 << (128 - length)) - 1, bits))
    return flat
