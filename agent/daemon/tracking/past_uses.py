"""Uses of the last hour whose rows were deleted: the consumer, and the number of attempts.

Bounded like the kernel's rows: local and remote uses apart, a share for each user and each network. Above its
share, one use stands for many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent import abi
from agent.kernel.tables.rows import Use
from agent.model import Origin, Process, Target
from agent.policy.terms.networks import FAR, around

HOUR_NS = 3600 * 1_000_000_000
SIDE_BYTES = 1 << 20
SHARE_BYTES = 1 << 18
"""Bytes for consumers remembered one by one, for each side and for each share."""
MANY_OF_SIDE = 500
"""Limit for uses that stand for many consumers of one user or network. Above it, there is one for each
decision."""
_OVERHEAD_BYTES = 600


@dataclass(frozen=True, slots=True)
class PastUse:
    """Attempts, or open connections, of one consumer to one target that were judged alike."""

    use: Use
    target: Target
    consumer: Process | None
    """None for a remote consumer; the first consumer if the use stands for many."""
    open: int = 0
    """Number of open connections."""


class PastUses:
    """One thread adds; other threads may read."""

    def __init__(self) -> None:
        self._kept: dict[bytes, PastUse] = {}
        self._bytes: Counter[tuple[int, ...]] = Counter()
        """Bytes by side, and by side and share."""
        self._many: Counter[int] = Counter()
        """Number of uses that stand for many, by side."""

    def __iter__(self) -> Iterator[PastUse]:
        return iter(list(self._kept.copy().values()))

    def add(self, one: PastUse) -> None:
        """Add a use. Without room of its own, it is added to the use of its user or network, else to that of
        all others."""
        for use_of in range(one.use.use_of, abi.UseOf.OTHERS + 1):
            wide = one if use_of == one.use.use_of else _widened(one, abi.UseOf(use_of))
            if self.has_room(wide):
                self._put(wide)
                return

    def has_room(self, one: PastUse) -> bool:
        if one.use.key in self._kept or one.use.use_of is abi.UseOf.OTHERS:
            return True
        if one.use.use_of is abi.UseOf.MANY:
            return self._many[side_of(one.use)] < MANY_OF_SIDE
        side, share = _places(one)
        return self._bytes[side] < SIDE_BYTES and self._bytes[share] < SHARE_BYTES

    def forget_before(self, boot_ns: int) -> None:
        for one in self:
            if one.use.last_boot_ns < boot_ns:
                self._drop(one.use.key)

    def _put(self, one: PastUse) -> None:
        before = self._kept.get(one.use.key)
        if before is not None:
            self._drop(one.use.key)
            if one.use.first_boot_ns - before.use.last_boot_ns < HOUR_NS:
                one = _joined(before, one)
        self._kept[one.use.key] = one
        self._count(one, 1)

    def _drop(self, key: bytes) -> None:
        self._count(self._kept.pop(key), -1)

    def _count(self, one: PastUse, sign: int) -> None:
        if one.use.use_of is abi.UseOf.ONE:
            for place in _places(one):
                self._bytes[place] += sign * _size(one)
                if not self._bytes[place]:
                    del self._bytes[place]
        else:
            self._many[side_of(one.use)] += sign


def side_of(use: Use) -> int:
    return abi.USE_SIDES.index("remote" if use.origin is Origin.REMOTE else "local")


def _places(one: PastUse) -> tuple[tuple[int, ...], tuple[int, ...]]:
    side = side_of(one.use)
    return (side,), (side, one.use.share)


def _size(one: PastUse) -> int:
    consumer = one.consumer or Process()
    return _OVERHEAD_BYTES + len(consumer.exe) + len(consumer.cgroup) + len(consumer.unit)


def _joined(before: PastUse, one: PastUse) -> PastUse:
    """Both added up, with the consumer of the newer one, or of the first if they stand for many."""
    use = replace(
        one.use,
        attempts=before.use.attempts + one.use.attempts,
        first_boot_ns=min(before.use.first_boot_ns, one.use.first_boot_ns),
        last_boot_ns=max(before.use.last_boot_ns, one.use.last_boot_ns),
    )
    whose = one if use.use_of is abi.UseOf.ONE else before
    return replace(whose, use=replace(use, source=whose.use.source, consumer=whose.use.consumer))


def _widened(one: PastUse, use_of: abi.UseOf) -> PastUse:
    """The use that stands for many, keyed as in bpf/lib/uses.h."""
    key = abi.UseKey.from_buffer_copy(one.use.key)
    key.use_of, key.exe, key.cgroup = use_of, 0, 0
    if use_of is abi.UseOf.OTHERS:
        key.uid, key.source = 0, abi.RawAddress()
    elif one.use.origin is Origin.REMOTE:
        key.source = abi.RawAddress.of(around(key.source.value(), FAR).network_address)
    return replace(one, use=replace(one.use, key=bytes(key), use_of=use_of))
