"""Who serves what a consumer calls address:port. Of all that listens now, and of a bounded number before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from agent.daemon.tracking.tally import keep_newest
from agent.model import MAPPED_PREFIX, Address, Process, to_address
from agent.policy.terms.networks import is_per_namespace

_WILDCARDS = (Address(MAPPED_PREFIX), Address(0))
_AT_LOOPBACK = dict(zip(_WILDCARDS, (to_address("127.0.0.1"), to_address("::1")), strict=True))
"""Where a connect() to an unspecified address ends (tcp_v4_connect, tcp_v6_connect in net/)."""
_LOOPBACK = int(to_address("127.0.0.0")) >> 24
REMEMBERED = 4096
"""Places where nobody listens any more, or that the kernel has just told of."""

Place = tuple[int, int, Address]
"""(namespace, port, address)"""
Spot = tuple[int, Address]
"""(port, address), wherever that is."""


@dataclass(slots=True)
class ServedPlaces:
    """One thread looks, another hears."""

    _now: dict[Place, Process] = field(default_factory=dict)
    """As of the last look."""
    _before: dict[Place, Process] = field(default_factory=dict)
    """Who listened there last, or has just called listen()."""
    _before_by_spot: dict[Spot, Place] = field(default_factory=dict)
    """Of `_before`, as `_by_spot`; the newest of several namespaces."""
    _shared: dict[Place, list[Process]] = field(default_factory=dict)
    """Places where several processes listen (SO_REUSEPORT)."""
    _by_spot: dict[Spot, Place] = field(default_factory=dict)
    """By port and address: the first of several namespaces."""

    def heard(self, place: Place, owner: Process) -> None:
        self._remember(place, owner)
        self._now.pop(place, None)

    def looked(
        self, serving: Iterable[tuple[Place, Process | None]], shared: dict[Place, list[Process]]
    ) -> None:
        """`serving`: all that listens. None: nobody is known to hold it; who listened there last, stays."""
        now = {place: known for place, owner in serving if (known := owner or self.at(place))}
        for place, owner in self._now.copy().items():
            if place not in now:
                self._remember(place, owner)
        # loopback has 16 million addresses, which are called in their own namespace alone
        self._by_spot = {place[1:]: place for place in reversed(now) if not _is_loopback(place[2])}
        self._now, self._shared = now, shared

    def _remember(self, place: Place, owner: Process) -> None:
        keep_newest(self._before, place, owner, REMEMBERED)
        if not _is_loopback(place[2]):
            keep_newest(self._before_by_spot, place[1:], place, REMEMBERED)

    def at(self, place: Place) -> Process | None:
        return self._now.get(place) or self._before.get(place)

    def owner_of(self, netns: int, port: int, address: Address) -> Process | None:
        """Who serves, or last served, what a consumer in `netns` calls address:port. A routable address may
        be served in another namespace; loopback never is. Of several that share the place: what they have
        in common."""
        near = [_AT_LOOPBACK.get(address, address), *_WILDCARDS]
        owner = next((one for each in near if (one := self._whole_at((netns, port, each)))), None)
        if owner or is_per_namespace(address):
            return owner
        return next((one for each in near if (one := self._elsewhere_at(port, each))), None)

    def _elsewhere_at(self, port: int, address: Address) -> Process | None:
        """Asked for each event: it must not cost more where somebody has listened at 4,096 places."""
        spot = (port, address)
        place = self._by_spot.get(spot) or self._before_by_spot.get(spot)
        return self._whole_at(place) if place else None

    def _whole_at(self, place: Place) -> Process | None:
        sharing = self._shared.get(place)
        return _in_common(sharing) if sharing else self.at(place)


def _is_loopback(address: Address) -> bool:
    """Of IPv4; as a number: asked of each listener."""
    return int(address) >> 24 == _LOOPBACK


def _in_common(processes: list[Process]) -> Process:
    first, nobody = processes[0], Process()
    return replace(
        nobody,
        **{
            each.name: getattr(first, each.name)
            for each in fields(Process)
            if len({getattr(process, each.name) for process in processes}) == 1
        },
    )
