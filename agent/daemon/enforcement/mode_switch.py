"""Turning targets to observe and enforce at run time: who would be refused, the switch, and the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.daemon.enforcement.preview import Foresight
from agent.daemon.tracking.strangers import Stranger
from agent.enforce.modes import Change, Effective, Overrides
from agent.enforce.override_file import Override
from agent.errors import LicetError, ModeError
from agent.export.events import Event, now_text, target_fields, unix_time
from agent.export.view import Caller, ModeRequest
from agent.model import Mode, Target, show_address
from agent.policy.values import Finding, Policy
from agent.system.boottime import boot_ns

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
    foresight: Foresight
    failsafe: frozenset[int]
    """Ports that are never refused; may be replaced when the agent's own is known."""
    tell: Callable[[Event], None]
    lost: Callable[[Collection[Target]], Sequence[Finding]] = lambda targets: ()
    """Rights for these targets that end at a container (Rights.lost)."""
    strangers: Callable[[int], Sequence[Stranger]] = lambda since_ns: ()
    """Who served, or tried to, what others own, since an instant of CLOCK_BOOTTIME (Strangers.since)."""
    known_since_ns: Callable[[], int] = lambda: 0
    """From which instant of CLOCK_BOOTTIME on uses are known."""
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
        """Whose uses of the last hour the targets that turn would refuse from then on. Raises ModeError."""
        self._check(request)
        turning = self._turning(request)
        now_ns = boot_ns()
        since_ns, known_ns = now_ns - PREVIEW_S * 10**9, self.known_since_ns()
        foreseen = self.foresight.of(turning, since_ns, now_ns, self.failsafe)
        return {
            "scope": request.scope,
            "mode": request.mode,
            "seconds": PREVIEW_S,
            "known_since": now_text(unix_time(known_ns), "seconds") if known_ns > since_ns else None,
            "turns_to_enforce": [target_fields(target) for target in turning],
            "refused": foreseen.refused,
            "unknown": foreseen.unknown,
            "confined": [str(finding) for finding in self.lost(turning)] if turning else [],
            "strangers": [
                _stranger_fields(one)
                for one in self.strangers(since_ns)
                if one.target in turning and one.port not in self.failsafe
            ],
        }

    def _turning(self, request: ModeRequest) -> list[Target]:
        """Targets that do not enforce, and would."""
        after = self.overrides.foresee(request.scope, request.mode)
        return [
            target
            for target in sorted(self._targets())
            if after(target, self._policy_mode(target)).mode is Mode.ENFORCE
            and (request.scope is None or request.scope in (target.service, str(target)))
            and not self.enforces(target)
        ]

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
            "problem": change.problem,
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
            **target_fields(target),
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


def _stranger_fields(one: Stranger) -> dict[str, Any]:
    """What `owner` of the service would have to say, were it to be one."""
    process = one.process
    return {
        **target_fields(one.target),
        "address": show_address(one.address),
        "port": one.port,
        "how": one.how,
        "exe": process.exe or process.comm,
        "user": process.user or process.uid,
        "unit": process.unit,
        "times": one.times,
        "last": now_text(unix_time(one.last_boot_ns)),
    }


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
