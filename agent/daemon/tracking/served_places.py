"""Finds the process that serves an address:port as a consumer sees it. Covers all listeners of now, and a
bounded number of former ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from agent.daemon.tracking.tally import keep_newest
from agent.model import MAPPED_PREFIX, Address, Process, to_address
from agent.policy.terms.networks import is_per_namespace

_WILDCARDS = (Address(MAPPED_PREFIX), Address(0))
_AT_LOOPBACK = dict(zip(_WILDCARDS, (to_address("127.0.0.1"), to_address("::1")), strict=True))
"""Address that a connect() to the unspecified address reaches (tcp_v4_connect, tcp_v6_connect in net/)."""
_LOOPBACK = int(to_address("127.0.0.0")) >> 24
REMEMBERED = 4096
"""Limit for places without a listener any more, or whose listener the kernel has just reported."""

Place = tuple[int, int, Address]
"""(namespace, port, address)"""
Spot = tuple[int, Address]
"""(port, address) in any namespace."""


@dataclass(slots=True)
class ServedPlaces:
    """One thread looks; another thread adds listeners that the kernel reports."""

    _now: dict[Place, Process] = field(default_factory=dict)
    """Listeners of the last look."""
    _before: dict[Place, Process] = field(default_factory=dict)
    """The last process that listened there, or one that has just called listen()."""
    _before_by_spot: dict[Spot, Place] = field(default_factory=dict)
    """`_before` by port and address; the newest of several namespaces."""
    _shared: dict[Place, list[Process]] = field(default_factory=dict)
    """Places where several processes listen (SO_REUSEPORT)."""
    _by_spot: dict[Spot, Place] = field(default_factory=dict)
    """`_now` by port and address; the first of several namespaces."""

    def heard(self, place: Place, owner: Process) -> None:
        self._remember(place, owner)
        self._now.pop(place, None)

    def looked(
        self, serving: Iterable[tuple[Place, Process | None]], shared: dict[Place, list[Process]]
    ) -> None:
        """Store the listeners of a look. `serving` has all listeners. None: no holder is known, and the
        process that listened there last stays."""
        now = {place: known for place, owner in serving if (known := owner or self.at(place))}
        for place, owner in self._now.copy().items():
            if place not in now:
                self._remember(place, owner)
        # loopback has 16 million addresses, which are reachable only from their own namespace
        self._by_spot = {place[1:]: place for place in reversed(now) if not _is_loopback(place[2])}
        self._now, self._shared = now, shared

    def _remember(self, place: Place, owner: Process) -> None:
        keep_newest(self._before, place, owner, REMEMBERED)
        if not _is_loopback(place[2]):
            keep_newest(self._before_by_spot, place[1:], place, REMEMBERED)

    def at(self, place: Place) -> Process | None:
        return self._now.get(place) or self._before.get(place)

    def owner_of(self, netns: int, port: int, address: Address) -> Process | None:
        """The process that serves, or last served, address:port as seen by a consumer in `netns`.

        Another namespace may serve a routable address, but never loopback. If several processes share the
        place, the result has what they have in common."""
        near = [_AT_LOOPBACK.get(address, address), *_WILDCARDS]
        owner = next((one for each in near if (one := self._whole_at((netns, port, each)))), None)
        if owner or is_per_namespace(address):
            return owner
        return next((one for each in near if (one := self._elsewhere_at(port, each))), None)

    def _elsewhere_at(self, port: int, address: Address) -> Process | None:
        """Look in the other namespaces. This runs for each event, so its cost must not grow with 4,096 former
        places."""
        spot = (port, address)
        place = self._by_spot.get(spot) or self._before_by_spot.get(spot)
        return self._whole_at(place) if place else None

    def _whole_at(self, place: Place) -> Process | None:
        sharing = self._shared.get(place)
        return _in_common(sharing) if sharing else self.at(place)


def _is_loopback(address: Address) -> bool:
    """True for IPv4 loopback. Compares numbers, because this runs for each listener."""
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
