"""Processes that served, or tried to serve, a port of other owners. A preview of `enforce` shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.tracking.listeners import Listening, serving_process
from agent.daemon.tracking.tally import keep_newest
from agent.model import Address, Listener, ListenerState, PortClass, Process, Protocol, Target
from agent.policy.decision.listeners import judge_listener
from agent.system.boottime import boot_ns

REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Stranger:
    """`how` is "listens" (now), "listened" (stopped) or "refused" (at bind())."""

    target: Target
    process: Process
    address: Address
    port: int
    how: str
    times: int
    last_boot_ns: int


_Key = tuple[Target, str, int | None, str, Address, int, str]


@dataclass(slots=True)
class Strangers:
    """Remembers strangers that did not stay: a configuration check (`nginx -t`) listens for milliseconds."""

    listening: Listening
    keeper: PolicyKeeper
    clock: Callable[[], int] = boot_ns
    _seen: dict[_Key, Stranger] = field(default_factory=dict)
    """Strangers, the newest last."""

    def heard(self, cookie: int, netns: int, address: Address, port: int, process: Process) -> None:
        """Record a listen() on a port, as reported by the kernel."""
        policy, facts = self.keeper.policy, self.keeper.facts
        if policy is None or facts is None or port not in policy.ports:
            return
        one = Listener(
            protocol=Protocol.TCP,
            family=0,
            address=address,
            port=port,
            netns=netns,
            cookie=cookie,
            inode=0,
            v6only=False,
            owners=(process,),
        )
        owners = self.listening.owners
        one = replace(one, activated=owners.activated(one, owners.seen(one)))
        judgement = judge_listener(policy, one, facts)
        if ListenerState.OWNER_MISMATCH in judgement.states:
            target = Target(judgement.service, PortClass(judgement.port_class))
            self._note(target, process, address, port, "listened")

    def refused(self, target: Target, address: Address, port: int, process: Process) -> None:
        self._note(target, process, address, port, "refused")

    def seen(self, since_boot_ns: int) -> list[Stranger]:
        """Strangers that did not stay or were refused."""
        return [one for one in self._seen.copy().values() if one.last_boot_ns >= since_boot_ns]

    def restore(self, seen: Iterable[Stranger]) -> None:
        """Add strangers that an earlier daemon saw."""
        for one in seen:
            keep_newest(self._seen, _key(one), one, REMEMBERED)

    def since(self, boot_ns: int) -> list[Stranger]:
        """Strangers, those that listen now first. Each program of a user and unit is listed once per
        place."""
        now = [
            Stranger(
                Target(one.service, PortClass(one.port_class)),
                process,
                one.listener.address,
                one.listener.port,
                "listens",
                1,
                self.clock(),
            )
            for one in self.listening.judged
            if ListenerState.OWNER_MISMATCH in one.states and (process := serving_process(one.listener))
        ]
        there = {_key(one)[:-1] for one in now}
        return now + [
            one for one in reversed(self.seen(boot_ns)) if one.how == "refused" or _key(one)[:-1] not in there
        ]

    def _note(self, target: Target, process: Process, address: Address, port: int, how: str) -> None:
        fresh = Stranger(target, process, address, port, how, 1, self.clock())
        before = self._seen.get(_key(fresh))
        seen = replace(fresh, times=before.times + 1) if before else fresh
        keep_newest(self._seen, _key(fresh), seen, REMEMBERED)


def _key(one: Stranger) -> _Key:
    process = one.process
    return one.target, process.exe or process.comm, process.uid, process.unit, one.address, one.port, one.how
