"""Run-time overrides of the mode: said to the kernel through the map `modes`, remembered in a file.

The kernel has one place for each target and one for the host, and checks the deadlines itself: it needs no
daemon to end an override. A target's own override is looked at before the host's, then comes the policy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from agent import abi
from agent.abi import NEVER_NS, U32, RawMode
from agent.enforce.override_file import Override, OverrideFile
from agent.errors import KernelError, ModeError
from agent.model import Mode, Target
from agent.policy.findings import did_you_mean
from agent.policy.tables.shape import MAX_TARGETS
from agent.system.boottime import boot_ns

_NONE = bytes(RawMode())
_NUMBERS = {Mode.OBSERVE: abi.Override.OBSERVE, Mode.ENFORCE: abi.Override.ENFORCE}
_HOST = 0

Entries = Mapping[Target | None, Override]


class ModeMap(Protocol):
    """The kernel's array `modes`."""

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, value: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Effective:
    """The mode of a target, and where it comes from."""

    mode: Mode
    override: Override | None = None
    """None: the policy."""

    @property
    def source(self) -> str:
        if self.override is None:
            return "policy"
        return "override" if self.override.target else "host override"


@dataclass(frozen=True, slots=True)
class Change:
    """What a set or reset has done."""

    made: tuple[Override, ...]
    """One for each target of the scope; none after a reset."""
    previous: tuple[Override, ...]
    """Those it replaced or took away; they do not come back by themselves."""
    narrower: tuple[Override, ...]
    """Of single targets, which go before one of the host and stay."""
    problem: str = ""
    """Why it may not outlive a restart."""


class Overrides:
    """`modes` is changed here only. `targets` are those of the policy in force; `id_of` is asked for no
    others. Call `restore` before anything else, and again whenever the policy has changed.

    Safe to use from several threads. Raises KernelError where the map can't be written, or the file before
    something enforces that did not. What is taken back needs no file: `problem` says what may not outlive a
    restart, until `retry` has written it."""

    def __init__(
        self,
        modes: ModeMap,
        id_of: Callable[[Target], int],
        targets: Callable[[], Sequence[Target]],
        path: Path,
        *,
        boot_ns: Callable[[], int] = boot_ns,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._modes = modes
        self._id_of = id_of
        self._targets = targets
        self._file = OverrideFile(path)
        self._boot_ns = boot_ns
        self._unix_s = unix_s
        self._lock = threading.Lock()
        self._read = False
        self._entries: Entries = {}  # never changed in place: readers take no lock
        self.problem = ""
        self._written: frozenset[int] = frozenset(range(MAX_TARGETS + 1))
        """Indices that may say something: at first, whatever an earlier run has left."""

    def restore(self) -> None:
        """Make the kernel's map say what the file says, as far as the policy has the targets; those it
        does not have stay in the file."""
        with self._lock:
            entries = self._entries if self._read else self._stored()
            self._say(entries)
            self._entries, self._read = entries, True

    def set(self, scope: str | None, mode: Mode, for_s: float | None, *, uid: int, pid: int) -> Change:
        """`scope`: None for the host, `service` for all of its classes, or `service/class`. `for_s`: seconds
        until it ends by itself; None: never. Raises ModeError where the policy has no such target."""
        with self._lock:
            now_s = self._unix_s()
            one = Override(
                target=None,
                mode=mode,
                until_boot_ns=None if for_s is None else self._boot_ns() + int(for_s * 1e9),
                until_unix_s=None if for_s is None else now_s + for_s,
                since_unix_s=now_s,
                uid=uid,
                pid=pid,
            )
            return self._change(
                scope, {target: replace(one, target=target) for target in self._set_by(scope)}
            )

    def reset(self, scope: str | None) -> Change:
        """Takes away the overrides of a scope, also of a target that the policy no longer has; the host's own
        leaves those of single targets. Raises ModeError where there is no such target."""
        with self._lock:
            return self._change(scope, {}, self._reset_by(scope))

    def take_ended(self) -> tuple[Override, ...]:
        """Forget those that have ended by themselves; each is answered once."""
        with self._lock:
            now_ns = self._boot_ns()
            ended = tuple(one for one in self._entries.values() if not one.in_force(now_ns))
            if ended:
                entries = {key: one for key, one in self._entries.items() if one.in_force(now_ns)}
                self._say(entries)
                self._entries = entries
                self._keep()
            return ended

    def retry(self) -> None:
        """Write what could not be written, where it can be now."""
        with self._lock:
            if self.problem:
                self._keep()

    def _keep(self) -> None:
        try:
            self._file.write(self._entries.values())
        except KernelError as error:
            self.problem = f"{error}: what `licet mode` has changed may not outlive a restart"
        else:
            self.problem = ""

    def listed(self) -> list[Override]:
        """Those in force, the host's first. Those of targets the policy no longer has are among them: they
        wait for their return."""
        now_ns = self._boot_ns()
        in_force = (one for one in self._entries.values() if one.in_force(now_ns))
        return sorted(in_force, key=lambda one: one.scope or "")

    def seconds_left(self, one: Override) -> float | None:
        """None: it does not end by itself."""
        return None if one.until_boot_ns is None else (one.until_boot_ns - self._boot_ns()) / 1e9

    def effective(self, target: Target, policy_mode: Mode) -> Effective:
        """What holds now, as the kernel sees it."""
        return self._effective(self._entries, target, policy_mode)

    def foresee(self, scope: str | None, mode: Mode | None) -> Callable[[Target, Mode], Effective]:
        """`effective` as it would be after a set, or (mode None) a reset. Raises ModeError as those do."""
        if mode is None:
            entries = self._without(self._reset_by(scope))
        else:
            made = {key: Override(key, mode, None, None, 0.0, 0, 0) for key in self._set_by(scope)}
            entries = {**self._entries, **made}
        return lambda target, policy_mode: self._effective(entries, target, policy_mode)

    def enforces_without_help(self, target: Target, policy_mode: Mode) -> bool:
        """Does it enforce now, or will it once overrides end by themselves? The gates of such a target must
        stay attached, or no deadline could bring refusing back while no daemon runs."""
        now_ns = self._boot_ns()
        for key in (target, None):
            one = self._entries.get(key)
            if one is None or not one.in_force(now_ns):
                continue
            if one.mode is Mode.ENFORCE:
                return True
            if one.until_boot_ns is None:
                return False
        return policy_mode is Mode.ENFORCE

    def check(self, scope: str | None, mode: Mode | None) -> None:
        """Raises ModeError where `set` or (mode None) `reset` would."""
        if mode is None:
            self._reset_by(scope)
        else:
            self._set_by(scope)

    def _set_by(self, scope: str | None) -> list[Target | None]:
        return _in_scope(scope, self._targets())

    def _reset_by(self, scope: str | None) -> list[Target | None]:
        """Which overrides a reset of this scope takes away, if they are set."""
        kept = (target for target in self._entries if target is not None)
        return _in_scope(scope, [*self._targets(), *kept])

    def _without(self, gone: Iterable[Target | None]) -> Entries:
        taken = set(gone)
        return {key: one for key, one in self._entries.items() if key not in taken}

    def _effective(self, entries: Entries, target: Target, policy_mode: Mode) -> Effective:
        now_ns = self._boot_ns()
        for key in (target, None):
            one = entries.get(key)
            if one is not None and one.in_force(now_ns):
                return Effective(one.mode, one)
        return Effective(policy_mode)

    def _change(
        self, scope: str | None, made: Entries, gone: Iterable[Target | None] | None = None
    ) -> Change:
        before = self._entries
        keys = list(made) if gone is None else list(gone)
        entries = {**self._without(keys), **made}
        now_ns = self._boot_ns()
        enforces = any(one.mode is Mode.ENFORCE for one in made.values())
        if enforces:
            # the file first: what it says is made true at the next start, if it is not now
            self._file.write(entries.values())
        try:
            self._say(entries)
        except KernelError:
            with contextlib.suppress(KernelError):
                self._file.write(before.values())
                self._say(before)
            raise
        self._entries = entries
        if enforces:
            self.problem = ""
        else:
            self._keep()
        return Change(
            made=tuple(made.values()),
            previous=tuple(one for key in keys if (one := before.get(key)) and one.in_force(now_ns)),
            narrower=tuple(one for one in entries.values() if one.target and one.in_force(now_ns))
            if scope is None
            else (),
            problem=self.problem,
        )

    def _stored(self) -> Entries:
        """As the file has them. Where the kernel still holds an override, its deadline is the exact one: the
        wall clock may have been set since."""
        ids = self._indices()
        entries: dict[Target | None, Override] = {}
        for one in self._file.read(self._unix_s() - self._boot_ns() / 1e9):
            held = self._modes.get(U32.pack(ids[one.target])) if one.target in ids else None
            raw = RawMode.from_buffer_copy(held or _NONE)
            until_ns, number = raw.until_ns, raw.override
            if one.until_boot_ns is not None and number == _NUMBERS[one.mode] and until_ns != NEVER_NS:
                one = replace(one, until_boot_ns=until_ns)
            entries[one.target] = one
        return entries

    def _indices(self) -> dict[Target | None, int]:
        ids: dict[Target | None, int] = {target: self._id_of(target) for target in self._targets()}
        return {None: _HOST, **ids}

    def _say(self, entries: Entries) -> None:
        now_ns = self._boot_ns()
        ids = self._indices()
        wanted = {
            ids[key]: bytes(
                RawMode(NEVER_NS if one.until_boot_ns is None else one.until_boot_ns, _NUMBERS[one.mode])
            )
            for key, one in entries.items()
            if key in ids and one.in_force(now_ns)
        }
        try:
            for index in self._written - wanted.keys():
                if (self._modes.get(U32.pack(index)) or _NONE) != _NONE:
                    self._modes.put(U32.pack(index), _NONE)
            for index, value in wanted.items():
                self._modes.put(U32.pack(index), value)
        except OSError as error:
            raise KernelError(f"the mode cannot be said to the kernel: {error}") from error
        finally:
            self._written |= wanted.keys()
        self._written = frozenset(wanted)


def _in_scope(scope: str | None, targets: Iterable[Target]) -> list[Target | None]:
    """The places a scope stands for. Raises ModeError."""
    if scope is None:
        return [None]
    known = list(dict.fromkeys(targets))
    found: list[Target | None] = [one for one in known if scope in (one.service, str(one))]
    if found:
        return found
    service = scope.partition("/")[0]
    classes = [str(one) for one in known if one.service == service]
    if classes:
        there_is = did_you_mean(scope, classes, f"there is {', '.join(classes)}")
        raise ModeError(f"target '{scope}': service '{service}' has no such class; {there_is}")
    services = list(dict.fromkeys(one.service for one in known))
    there_are = f"services are {', '.join(services)}" if services else "no policy is loaded"
    raise ModeError(f"target '{scope}': no service '{service}'; {did_you_mean(service, services, there_are)}")
