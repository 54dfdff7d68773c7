"""The hooks for UDP, loaded and attached while the policy in force declares a UDP port."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agent.config import Settings
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.export.status import Hook
from agent.kernel.attach.gates import (
    NOTE_DATAGRAM,
    OBSERVE_ARRIVAL,
    OBSERVE_RECEIVE,
    OBSERVE_SEND,
    REFUSE_ARRIVAL,
    REFUSE_FORWARDED,
    SEND,
    CgroupGate,
    SocketGate,
)
from agent.kernel.loading import supervisor
from agent.kernel.pins import Pins
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.model import Namespace, Protocol
from agent.policy.values import Policy
from agent.wording import counted

log = logging.getLogger(__name__)

ARRIVALS = (OBSERVE_ARRIVAL, REFUSE_ARRIVAL, REFUSE_FORWARDED)


@dataclass(slots=True)
class Datagrams:
    """Attaches observers before gates and detaches them after gates, because a gate enforces what an observer
    decided.

    Where the socket gate is attached, it judges arrivals itself, and the observer of arrivals is not
    needed."""

    settings: Settings
    maps: PolicyMaps
    keeper: PolicyKeeper
    observers: CgroupGate
    notes: CgroupGate
    receipts: CgroupGate
    gate: CgroupGate
    arrivals: SocketGate
    missing: dict[str, str] = field(default_factory=dict)
    """Reason why this kernel does not load a program, by program."""
    attached: bool = False
    left_to_gate: int = 0
    """Number of network namespaces in which the socket gate judges arrivals."""

    @classmethod
    def on(
        cls,
        settings: Settings,
        maps: PolicyMaps,
        pins: Pins,
        cgroup: Path,
        keeper: PolicyKeeper,
    ) -> Self:
        """Made from parts that were built before. Nothing is loaded or attached yet."""
        return cls(
            settings,
            maps,
            keeper,
            CgroupGate(pins, cgroup, OBSERVE_SEND),
            CgroupGate(pins, cgroup, NOTE_DATAGRAM),
            CgroupGate(pins, cgroup, OBSERVE_RECEIVE),
            CgroupGate(pins, cgroup, SEND),
            SocketGate(pins, OBSERVE_ARRIVAL, "arrival_calls"),
        )

    def observe(self, namespaces: Sequence[Namespace], gated: Collection[int] = ()) -> None:
        """Attach in `namespaces` except those of `gated` (cookies) if a UDP port is declared; else detach.
        Raises OSError or LicetError."""
        policy = self.keeper.policy
        if policy is None or not policy.declares(Protocol.UDP):
            self._let_go()
            return
        if not self.attached:
            self.missing = supervisor.load_datagrams(self.settings)
            self.notes.attach(self.missing)
            self.observers.attach(self.missing)
            self.attached = True
        self._follow_receipts(policy)
        if OBSERVE_ARRIVAL not in self.missing:
            ungated = [one for one in namespaces if one.cookie not in gated]
            self.left_to_gate = len(namespaces) - len(ungated)
            self.arrivals.sync(ungated)

    def enforce(self) -> None:
        """Attach the gate for senders if a UDP port is declared, else detach it. Raises OSError."""
        if self.attached:
            self.gate.attach()
        else:
            self.gate.detach()

    def status(self) -> list[Hook]:
        """Fields as for the other hooks: hook, rung, attached_to ("" if not attached), note."""
        cgroup = self.settings.scope.cgroup if self.attached else ""
        namespaces = counted(len(self.arrivals.attached()), "network namespace") if self.attached else ""
        received = cgroup if self.receipts.attached() else ""
        idle = "" if self.attached else "no port of UDP is declared"
        here = "" if received else idle or "each port of UDP is this host's"
        left = counted(self.left_to_gate, "network namespace") if self.attached and self.left_to_gate else ""
        gated = f"in {left} the socket gate judges what arrives" if left else idle
        return [
            {"hook": hook, "rung": rung, "attached_to": place, "note": self._why_missing(programs) or why}
            for hook, rung, place, programs, why in (
                ("datagram", "cgroup-sock-addr-link", cgroup, OBSERVE_SEND, idle),
                ("datagram_sent", "cgroup-skb-link", cgroup, NOTE_DATAGRAM, idle),
                ("datagram_received", "cgroup-sock-addr-link", received, OBSERVE_RECEIVE, here),
                ("datagram_arrival", "sk-lookup-link", namespaces, ARRIVALS, gated),
            )
        ]

    def _why_missing(self, programs: Iterable[str]) -> str:
        return "; ".join(self.missing[name] for name in programs if name in self.missing)

    def detach_gate(self) -> None:
        self.gate.detach()

    def _follow_receipts(self, policy: Policy) -> None:
        """Attach the receive hook only if a port is declared at another host: only then can an answer look
        like an attempt."""
        if policy.declares(Protocol.UDP, elsewhere=True):
            self.receipts.attach(self.missing)
            self.maps.set_receipts(True)
        else:
            self._let_go_of_receipts()

    def _let_go_of_receipts(self) -> None:
        self.maps.set_receipts(False)
        self.receipts.detach()

    def _let_go(self) -> None:
        self.gate.detach()
        self.arrivals.detach()
        self.observers.detach()
        self._let_go_of_receipts()
        self.notes.detach()
        self.attached = False
