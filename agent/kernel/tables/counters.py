"""Reads from the maps: the counts of programs, and the rows of flows and uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from agent import abi
from agent.kernel.pins import Pins
from agent.kernel.tables.columns import columns, flow_columns
from agent.model import Decision, Origin, Reason, Verdict
from agent.system.bpf_map import Map

_STATE_AND_TARGET = columns(abi.Flow, "state", "verdict.target")
_NONE = bytes(abi.U64.size)


@dataclass(frozen=True, slots=True)
class Attempts:
    """The number of attempts with the same target, decision, reason and origin."""

    target: int
    decision: Decision
    reason: Reason
    origin: Origin
    count: int


class Counters:
    """The maps in which programs count. Mostly reads; writes counts of attempts and flows that no program
    saw.

    Other modules delete idle rows through the maps."""

    def __init__(self, pins: Pins) -> None:
        self._counts = pins.open_map("counts")
        self._flow_counts = pins.open_map("flow_counts")
        self._found_flows = pins.open_map("found_flows")
        self._unprotected = pins.open_map("unprotected")
        self._losses = pins.open_map("losses")
        self._refused = pins.open_map("refused")
        self._misled = pins.open_map("misled")
        self.modes = pins.open_map("modes")
        self.uses = pins.open_map("uses")
        self.told = pins.open_map("told")
        self.flows = pins.open_map("flows")
        self.tuples = pins.open_map("tuples")
        self.acceptors = pins.open_map("acceptors")
        self.edges = pins.open_map("edges")
        self.names = pins.open_map("names")
        self.owners = pins.open_map("owners")
        self.more_strangers = pins.open_map("more_strangers")
        self.more_owners = pins.open_map("more_owners")
        self.crowded = pins.open_map("crowded")
        self.socket_owners = pins.open_map("socket_owners")
        self.ring = pins.open_map("ring")
        self.bulk = pins.open_map("bulk")
        self._use_counts = pins.open_map("use_counts")
        self.senders = pins.open_map("senders")
        self.sents = pins.open_map("sents")
        self.peers = pins.open_map("peers")
        self._datagram_rows = pins.open_map("datagram_rows")
        self._most_unprotected: dict[str, int] = {}
        self._noted_uses: frozenset[int] | None = None
        """Indexes of use_counts whose count may differ from zero; None: all of them."""

    def close(self) -> None:
        for one in vars(self).values():
            if isinstance(one, Map):
                one.close()

    def attempts(self) -> Iterator[Attempts]:
        for key, value in self._counts.items():
            raw = abi.CountKey.from_buffer_copy(key)
            yield Attempts(
                target=raw.target,
                decision=Decision(raw.decision),
                reason=Reason(raw.reason),
                origin=Origin(raw.origin),
                count=_sum(value),
            )

    def count_found(self, verdict: Verdict, origin: Origin) -> None:
        """Count one attempt that no program saw: a connection from before the agent. The row has no protocol,
        so no program writes to it at the same time."""
        key = bytes(
            abi.CountKey(
                target=verdict.target, decision=verdict.decision, reason=verdict.reason, origin=origin
            )
        )
        before = _sum(self._counts.get(key) or b"")
        values = [before + 1] + [0] * (self._counts.cpus - 1)
        self._counts.put(key, b"".join(abi.U64.pack(value) for value in values))

    def count_found_flows(self, target: int, *, opened: int = 0, closed: int = 0) -> None:
        """Count flows of a target whose opening, or close, no program saw."""
        before = self._found(target)
        self._found_flows.put(
            abi.U32.pack(target), abi.FLOW_COUNT.pack(before[0] + opened, before[1] + closed)
        )

    def _found(self, target: int) -> tuple[int, int]:
        value = self._found_flows.get(abi.U32.pack(target))
        opened, closed = abi.FLOW_COUNT.unpack(value) if value else (0, 0)
        return opened, closed

    def opened_closed(self, targets: Collection[int]) -> dict[int, tuple[int, int]]:
        """(opened, closed) flows by target id: those that programs saw, and those that reconciliation found.
        Targets without any are left out."""
        found: dict[int, tuple[int, int]] = {}
        for table in (self._flow_counts, self._found_flows):
            for target, value in _counted(table, targets):
                pairs = [found.get(target, (0, 0)), *abi.FLOW_COUNT.iter_unpack(value)]
                found[target] = (sum(opened for opened, _ in pairs), sum(closed for _, closed in pairs))
        return found

    def closed_unseen(self, targets: Collection[int]) -> int:
        """Flows of these targets whose close only reconciliation found."""
        found = _counted(self._found_flows, targets)
        return sum(abi.FLOW_COUNT.unpack(value)[1] for _, value in found)

    def refusals(self, targets: Collection[int]) -> dict[tuple[int, str], int]:
        """Refusals by target id and gate. Zeros are left out."""
        gates = len(abi.GATES)
        places = {
            target * gates + gate: (target, name) for target in targets for gate, name in enumerate(abi.GATES)
        }
        return {places[place]: _sum(value) for place, value in _counted(self._refused, places)}

    def misled(self, targets: Collection[int]) -> dict[int, int]:
        """By target id: the number of consumers refused because a stranger listens on the port. Zeros are
        left out."""
        return {target: _sum(value) for target, value in _counted(self._misled, targets)}

    def noted_uses(self) -> Counter[int]:
        """The number of rows in `uses`, by index in use_counts: what note_uses() stored, plus rows that
        programs have added since."""
        counted = ((key, value) for key, value in self._use_counts.items() if value != _NONE)
        return Counter({abi.U32.unpack(key)[0]: abi.U64.unpack(value)[0] for key, value in counted})

    def note_uses(self, rows: Mapping[int, int], since: Mapping[int, int] | None = None) -> None:
        """Store the number of rows in `uses`, by index in use_counts; 0 where all rows were deleted. `since`:
        the result of noted_uses() when `rows` were counted. Rows that programs have made after that are
        added."""
        made = Counter() if since is None else self.noted_uses() - Counter(since)
        now = {place: rows.get(place, 0) + made[place] for place in {*rows, *made}}
        before = range(self._use_counts.max_entries) if self._noted_uses is None else self._noted_uses
        places = {*before, *now}
        self._use_counts.put_all([(abi.U32.pack(one), abi.U64.pack(now.get(one, 0))) for one in places])
        self._noted_uses = frozenset(place for place, count in now.items() if count)

    def active(self) -> Counter[int]:
        """Established flows by target id."""
        rows = flow_columns(self.flows, _STATE_AND_TARGET)
        return Counter(target for _, (state, target) in rows if state == abi.FlowState.OPEN)

    def unprotected(self) -> dict[str, int]:
        """Connections to undeclared ports, by direction. A connect() that turns out to be an attempt is
        subtracted again, but the result never decreases."""
        for direction, count in self._array(self._unprotected, abi.DIRECTIONS).items():
            self._most_unprotected[direction] = max(count, self._most_unprotected.get(direction, 0))
        return dict(self._most_unprotected)

    def losses(self) -> dict[str, int]:
        return self._array(self._losses, abi.LOSSES)

    def datagram_rows(self) -> tuple[int, ...]:
        """The number of rows made in senders, sents and peers."""
        return tuple(self._array(self._datagram_rows, ("senders", "sents", "peers")).values())

    @staticmethod
    def _array(array: Map, names: tuple[str, ...]) -> dict[str, int]:
        return {name: _sum(array.get(abi.U32.pack(i)) or b"") for i, name in enumerate(names)}


def _counted(array: Map, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """(index, value) of the wanted entries that are not zero. One by one, each would be a system call."""
    values = enumerate(array.first(max(wanted, default=-1) + 1))
    return ((index, value) for index, value in values if index in wanted and value.strip(b"\0"))


def _sum(per_cpu: bytes) -> int:
    """The sum over all CPUs, modulo 2^64: one CPU may subtract what another has counted."""
    total = sum(int(value) for (value,) in abi.U64.iter_unpack(per_cpu))
    return total & (1 << 64) - 1
