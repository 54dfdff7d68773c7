"""Two claims to one port at one place are an error. A claim inside a larger one is a warning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.model import Network, Protocol, show_network
from agent.policy.findings import Findings
from agent.policy.terms.container_selector import ContainerSelector
from agent.policy.terms.networks import covers
from agent.policy.terms.ports import pieces
from agent.policy.values import Place, Port, Service


@dataclass(frozen=True, slots=True)
class _Claim:
    service: Service
    port: Port
    network: Network | ContainerSelector | None
    """None: this host. Which containers a selector matches is known only when they run, so only equal
    selectors collide."""


def check_collisions(services: Iterable[Service], findings: Findings) -> None:
    """Reports collisions. Of nested networks the smaller one wins, as in any longest-prefix table. Ranges of
    ports at one place must not overlap."""
    claims = [
        _Claim(service, port, place)
        for service in services
        for port in service.ports
        for place in _places(service)
    ]
    told: set[tuple[Place, Place]] = set()
    for protocol in Protocol:
        of_protocol = [claim for claim in claims if claim.port.protocol is protocol]
        for _, _, there in pieces(of_protocol, lambda claim: claim.port):
            for outer, inner in _nested(there):
                # A range may collide in several pieces, two services in many networks: report once.
                pair = (outer.port.place, inner.port.place)
                if outer.port is not inner.port and pair not in told:
                    told.add(pair)
                    _tell(outer, inner, findings)


def _nested(claims: Sequence[_Claim]) -> Iterator[tuple[_Claim, _Claim]]:
    """(outer, inner) for each claim and the claims it lies in, equal ones included."""
    if len(claims) < 2:
        return
    unnested: dict[ContainerSelector | None, _Claim] = {}
    for claim in claims:
        if not isinstance(claim.network, Network):
            first = unnested.setdefault(claim.network, claim)
            if first is not claim:
                yield first, claim
    elsewhere = [(claim.network, claim) for claim in claims if isinstance(claim.network, Network)]
    elsewhere.sort(key=lambda each: (int(each[0].network_address), each[0].prefixlen))
    around: list[tuple[Network, _Claim]] = []
    for network, claim in elsewhere:
        while around and not around[-1][0].supernet_of(network):
            around.pop()
        yield from ((outer, claim) for larger, outer in around if covers(larger, network))
        around.append((network, claim))


def _places(service: Service) -> tuple[Network | ContainerSelector | None, ...]:
    return (None,) if service.at_host else (service.at or service.at_containers)


def _shown(place: Network | ContainerSelector | None) -> str:
    if place is None:
        return "of this host"
    return f"at {show_network(place)}" if isinstance(place, Network) else f"at containers with {place}"


def _tell(outer: _Claim, inner: _Claim, findings: Findings) -> None:
    outer, inner = (outer, inner) if outer.network != inner.network else _as_written(outer, inner)
    first, last = max(outer.port.first, inner.port.first), min(outer.port.last, inner.port.last)
    spot = f"port {_range(first, last)}/{inner.port.protocol.name.lower()}"
    if outer.service is inner.service:
        findings.error(
            inner.port.place,
            f"service '{inner.service.name}': {spot} is already declared at {outer.port.place}",
            f"one port has one class: {_split(outer.port, inner.port) or 'remove one'}",
        )
    elif outer.network == inner.network:
        findings.error(
            inner.port.place,
            f"services '{inner.service.name}' and '{outer.service.name}' (at {outer.port.place}) "
            f"both have {spot} {_shown(inner.network)}",
            _split(outer.port, inner.port) or "give one of them another port or another `at`",
        )
    elif isinstance(inner.network, Network) and isinstance(outer.network, Network):
        findings.warn(
            inner.port.place,
            f"{spot}: {show_network(inner.network)} lies in {show_network(outer.network)} of service "
            f"'{outer.service.name}'; '{inner.service.name}' gets the port there",
            "the smaller network wins; change one of them if that is not intended",
        )


def _split(one: Port, other: Port) -> str:
    """Which ranges to write in place of the wider one, so that it leaves out the other's ports."""
    wide, narrow = sorted((one, other), key=lambda port: port.first - port.last)
    rest = [(wide.first, min(wide.last, narrow.first - 1)), (max(wide.first, narrow.last + 1), wide.last)]
    written = " and ".join(_range(first, last) for first, last in rest if first <= last)
    return f"write {written} in place of {_range(wide.first, wide.last)}" if written else ""


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _as_written(one: _Claim, other: _Claim) -> tuple[_Claim, _Claim]:
    """(earlier, later) in the files: the later one gets the blame."""
    return (other, one) if other.port.place < one.port.place else (one, other)
