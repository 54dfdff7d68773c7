"""Switches targets to observe or enforce at run time: the preview of refusals, the switch, and the audit."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.daemon.enforcement.confined_rights import Rights
from agent.daemon.enforcement.failsafe import Failsafe
from agent.daemon.enforcement.flow_cutter import FlowCutter
from agent.daemon.enforcement.gates import Gates
from agent.daemon.enforcement.preview import Foresight
from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.daemon.tracking.last_hour import LastHour
from agent.daemon.tracking.strangers import Stranger, Strangers
from agent.enforce.mode_overrides import Change, Overrides
from agent.enforce.override_file import Override
from agent.errors import LicetError, ModeError
from agent.export.agent_port import Caller, ModeRequest
from agent.export.events import Event, now_text, target_fields, unix_time
from agent.model import Mode, Target, show_address
from agent.system.boottime import boot_ns

log = logging.getLogger(__name__)

PREVIEW_S = 3600
HOST = "the host"


class Audit(Protocol):
    """Stores mode changes for later requests."""

    def mode(self, event: Event) -> None: ...


@dataclass(slots=True)
class ModeSwitch:
    """Runs one switch at a time. Gates are attached before a target enforces, and detached after."""

    modes: ModesInForce
    gates: Gates
    cutter: FlowCutter
    foresight: Foresight
    rights: Rights
    strangers: Strangers
    last_hour: LastHour
    failsafe: Failsafe
    audit: Audit
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def _overrides(self) -> Overrides:
        return self.modes.overrides

    def listed(self) -> dict[str, Any]:
        """Targets with their modes, overrides and gates, JSON-ready."""
        return {
            "targets": [self._target_fields(target) for target in self.modes.targets()],
            "overrides": self._listed(),
            "gates": list(self.gates.attached),
        }

    def _listed(self) -> list[dict[str, Any]]:
        targets = set(self.modes.targets())
        return [
            {
                **_fields(one),
                "seconds_left": self._seconds_left(one),
                "since": now_text(one.since_unix_s),
                "uid": one.uid,
                "pid": one.pid,
                "in_policy": one.target is None or one.target in targets,
            }
            for one in self._overrides.listed()
        ]

    def preview(self, request: ModeRequest) -> dict[str, Any]:
        """Uses of the last hour that the switched targets would refuse from then on. Raises ModeError."""
        self._check(request)
        turning = self._turning(request)
        now_ns = boot_ns()
        since_ns, known_ns = now_ns - PREVIEW_S * 10**9, self.last_hour.since_ns
        foreseen = self.foresight.of(turning, since_ns, now_ns, self.failsafe.ports)
        return {
            "scope": request.scope,
            "mode": request.mode,
            "seconds": PREVIEW_S,
            "known_since": now_text(unix_time(known_ns), "seconds") if known_ns > since_ns else None,
            "turns_to_enforce": [target_fields(target) for target in turning],
            "refused": foreseen.refused,
            "unknown": foreseen.unknown,
            "confined": [str(finding) for finding in self.rights.lost(turning)] if turning else [],
            "strangers": [
                _stranger_fields(one)
                for one in self.strangers.since(since_ns)
                if one.target in turning and one.port not in self.failsafe.ports
            ],
        }

    def _turning(self, request: ModeRequest) -> list[Target]:
        """Targets that do not enforce now, and would after the switch."""
        after = self._overrides.foresee(request.scope, request.mode)
        return [
            target
            for target in sorted(self.modes.targets())
            if after(target, self.modes.of_policy(target)).mode is Mode.ENFORCE
            and (request.scope is None or request.scope in (target.service, str(target)))
            and not self.modes.enforces(target)
        ]

    async def switch(self, request: ModeRequest, caller: Caller) -> dict[str, Any]:
        """Switch modes and return the result. Raises LicetError: then nothing has changed, unless the message
        says that attaching or detaching gates failed."""
        async with self._turn:
            self._check(request)
            log.debug("mode: %s to %s, by uid %d", request.scope or "the host", request.mode, caller.uid)
            if request.mode is Mode.ENFORCE:
                await self.gates.attach()
            try:
                change = await asyncio.to_thread(self._change, request, caller)
            except LicetError:
                await self.gates.settle()
                raise
            self._tell(_event(request, change, caller))
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
        """Report ended overrides, which the kernel has already ended, and detach gates that no target needs.
        Call this periodically."""
        async with self._turn:
            ended = await asyncio.to_thread(self._overrides.take_ended)
            for one in ended:
                self._tell(_ended_event(one))
            if ended:
                log.debug("mode: %d overrides have ended", len(ended))
                await self.gates.settle()

    def _change(self, request: ModeRequest, caller: Caller) -> Change:
        if request.mode is None:
            return self._overrides.reset(request.scope)
        return self._overrides.set(request.scope, request.mode, request.for_s, uid=caller.uid, pid=caller.pid)

    def _check(self, request: ModeRequest) -> None:
        if request.mode is Mode.ENFORCE and not self.modes.targets():
            raise ModeError(
                "nothing to enforce: no policy declares a service; write one, and `licet policy check` it"
            )
        self._overrides.check(request.scope, request.mode)

    def _tell(self, event: Event) -> None:
        self.cutter.look_again()
        self.audit.mode(event)

    def _target_fields(self, target: Target) -> dict[str, Any]:
        effective = self.modes.effective(target)
        return {
            **target_fields(target),
            "mode": effective.mode.value,
            "source": effective.source,
            "policy": self.modes.of_policy(target).value,
            "until": _until(effective.override) if effective.override else None,
            "seconds_left": self._seconds_left(effective.override),
        }

    def _seconds_left(self, one: Override | None) -> float | None:
        left = self._overrides.seconds_left(one) if one else None
        return None if left is None else round(left, 1)


def _until(one: Override) -> str | None:
    return None if one.until_unix_s is None else now_text(one.until_unix_s)


def _fields(one: Override) -> dict[str, Any]:
    return {"scope": one.scope, "mode": one.mode.value, "until": _until(one)}


def _stranger_fields(one: Stranger) -> dict[str, Any]:
    """The fields that `owner` of the service would need to include this stranger."""
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
        else "override removed"
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
    """The event of an ended override. `mode` is null, as after a reset. It has no caller, because the
    override ended at its time."""
    return {
        "type": "mode",
        "time": now_text(),
        "scope": one.scope,
        "mode": None,
        "until": None,
        "previous": [_fields(one)],
        "message": f"{one.scope or HOST}: {one.mode} has ended, as it was set to",
    }
