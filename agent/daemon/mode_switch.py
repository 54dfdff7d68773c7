"""Turning targets to observe and enforce at run time: who would be refused, the switch, and the audit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.daemon.usage import Denied
from agent.enforce.modes import Change, Effective, Overrides
from agent.enforce.override_file import Override
from agent.errors import LicetError, ModeError
from agent.export.events import Event, now_text
from agent.export.view import Caller, ModeRequest
from agent.model import Mode, Target
from agent.policy.values import Policy

PREVIEW_S = 3600
HOST = "the host"


class GateSwitch(Protocol):
    async def attach(self) -> None:
        """Raises LicetError where nothing could be refused."""

    async def settle(self) -> None:
        """Attach if something enforces, let go if nothing does."""


@dataclass(slots=True)
class ModeSwitch:
    overrides: Overrides
    gates: GateSwitch
    attached: Callable[[], Sequence[str]]
    """Names of the gates that are attached now."""
    policy: Callable[[], Policy | None]
    denied: Callable[[int], Sequence[Denied]]
    """Consumers with a denied attempt since an instant of CLOCK_BOOTTIME (Usage.denied)."""
    failsafe: frozenset[int]
    """Ports that are never refused; may be replaced when the agent's own is known."""
    tell: Callable[[Event], None]
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def effective(self, target: Target) -> Effective:
        return self.overrides.effective(target, self._policy_mode(target))

    def enforces(self, target: Target) -> bool:
        return self.effective(target).mode is Mode.ENFORCE

    def gates_wanted(self) -> bool:
        """Does a target enforce, or will one by itself when an override ends?"""
        return any(
            self.overrides.enforces_without_help(target, self._policy_mode(target))
            for target in self._targets()
        )

    def in_force(self) -> list[Override]:
        """Overrides, but those that wait for their target to return."""
        targets = set(self._targets())
        return [one for one in self.overrides.listed() if one.target is None or one.target in targets]

    def listed(self) -> dict[str, Any]:
        """JSON-ready: targets with their modes, overrides, gates."""
        return {
            "targets": [self._target_fields(target) for target in self._targets()],
            "overrides": self._listed(),
            "gates": list(self.attached()),
        }

    def _listed(self) -> list[dict[str, Any]]:
        targets = set(self._targets())
        return [
            {
                **_fields(one),
                "seconds_left": self._seconds_left(one),
                "since": now_text(one.since_unix_s),
                "uid": one.uid,
                "pid": one.pid,
                "in_policy": one.target is None or one.target in targets,
            }
            for one in self.overrides.listed()
        ]

    def preview(self, request: ModeRequest) -> dict[str, Any]:
        """Whose attempts of the last hour would be refused from then on, most first. Raises ModeError."""
        self._check(request)
        after = self.overrides.foresee(request.scope, request.mode)
        refused = {
            target
            for target in self._targets()
            if after(target, self._policy_mode(target)).mode is Mode.ENFORCE
        }
        if request.scope is not None:
            refused = {target for target in refused if request.scope in (target.service, str(target))}
        since_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - PREVIEW_S * 10**9
        rows = [
            one for one in self.denied(since_ns) if one.target in refused and one.port not in self.failsafe
        ]
        return {
            "scope": request.scope,
            "mode": request.mode,
            "seconds": PREVIEW_S,
            "turns_to_enforce": [str(target) for target in sorted(refused) if not self.enforces(target)],
            "refused": _by_consumer(rows),
        }

    async def switch(self, request: ModeRequest, caller: Caller) -> dict[str, Any]:
        """Raises LicetError: nothing has changed, unless it says that the gates could not be settled."""
        async with self._turn:
            self._check(request)
            if request.mode is Mode.ENFORCE:
                await self.gates.attach()
            try:
                change = await asyncio.to_thread(self._change, request, caller)
            except LicetError:
                await self.gates.settle()
                raise
            self.tell(_event(request, change, caller))
            await self.gates.settle()
        return {
            "scope": request.scope,
            "mode": request.mode,
            "made": [_fields(one) for one in change.made],
            "previous": [_fields(one) for one in change.previous],
            "narrower": [_fields(one) for one in change.narrower],
            **self.listed(),
        }

    async def follow(self) -> None:
        """To be called every now and then: tells of overrides that have ended, which the kernel has seen to,
        and lets go of gates that nothing needs any more."""
        async with self._turn:
            ended = await asyncio.to_thread(self.overrides.take_ended)
            for one in ended:
                self.tell(_ended_event(one))
            if ended:
                await self.gates.settle()

    def _change(self, request: ModeRequest, caller: Caller) -> Change:
        if request.mode is None:
            return self.overrides.reset(request.scope)
        return self.overrides.set(request.scope, request.mode, request.for_s, uid=caller.uid, pid=caller.pid)

    def _check(self, request: ModeRequest) -> None:
        if request.mode is Mode.ENFORCE and not self._targets():
            raise ModeError(
                "nothing to enforce: no policy declares a service; write one, and `licet policy check` it"
            )
        self.overrides.check(request.scope, request.mode)

    def _targets(self) -> Sequence[Target]:
        policy = self.policy()
        return policy.targets if policy else ()

    def _policy_mode(self, target: Target) -> Mode:
        policy = self.policy()
        return policy.mode_of(target) if policy else Mode.OBSERVE

    def _target_fields(self, target: Target) -> dict[str, Any]:
        effective = self.effective(target)
        return {
            "service": target.service,
            "class": target.port_class.value,
            "mode": effective.mode.value,
            "source": effective.source,
            "policy": self._policy_mode(target).value,
            "until": _until(effective.override) if effective.override else None,
            "seconds_left": self._seconds_left(effective.override),
        }

    def _seconds_left(self, one: Override | None) -> float | None:
        left = self.overrides.seconds_left(one) if one else None
        return None if left is None else round(left, 1)


def _until(one: Override) -> str | None:
    return None if one.until_unix_s is None else now_text(one.until_unix_s)


def _fields(one: Override) -> dict[str, Any]:
    return {"scope": one.scope, "mode": one.mode.value, "until": _until(one)}


def _by_consumer(rows: Iterable[Denied]) -> list[dict[str, Any]]:
    alike: dict[tuple[str, Target, str], list[Denied]] = {}
    for one in rows:
        alike.setdefault((one.consumer, one.target, one.reason.name.lower()), []).append(one)
    offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    found = [
        {
            "consumer": consumer,
            "service": target.service,
            "class": target.port_class.value,
            "reason": reason,
            "attempts": sum(one.attempts for one in group),
            "since": now_text(offset_s + min(one.first_boot_ns for one in group) / 1e9),
            "last": now_text(offset_s + max(one.last_boot_ns for one in group) / 1e9),
        }
        for (consumer, target, reason), group in alike.items()
    ]
    return sorted(found, key=lambda row: -row["attempts"])


def _event(request: ModeRequest, change: Change, caller: Caller) -> Event:
    until = _until(change.made[0]) if change.made else None
    what = (
        f"set to {request.mode}"
        if request.mode
        else "override taken away"
        if change.previous
        else "reset, where no override was set"
    )
    message = f"{request.scope or HOST}: {what}" + (f" until {until}" if until else "")
    return {
        "type": "mode",
        "time": now_text(),
        "scope": request.scope,
        "mode": request.mode,
        "until": until,
        "previous": [_fields(one) for one in change.previous],
        "caller": {"uid": caller.uid, "pid": caller.pid},
        "message": f"{message}, by uid {caller.uid} (pid {caller.pid})",
    }


def _ended_event(one: Override) -> Event:
    """`mode` null, as after a reset; without a caller: it ended by itself."""
    return {
        "type": "mode",
        "time": now_text(),
        "scope": one.scope,
        "mode": None,
        "until": None,
        "previous": [_fields(one)],
        "message": f"{one.scope or HOST}: {one.mode} has ended, as it was set to",
    }
