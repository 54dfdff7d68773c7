"""Run-time overrides of the mode: written to the kernel's map `modes` and stored in a file.

The map has one entry per target and one for the host. The BPF programs check the deadlines themselves, so an
override ends on time even while no daemon runs. A target's own override takes precedence over the host's, and
the host's over the policy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.enforce.mode_table import Entries, ModeMap, ModeTable, Targets
from agent.enforce.override_file import Override, OverrideFile
from agent.errors import KernelError, ModeError
from agent.model import Mode, Target
from agent.system.boottime import boot_ns
from agent.wording import did_you_mean, listed


@dataclass(frozen=True, slots=True)
class Effective:
    """The mode of a target, and its source: an override or the policy."""

    mode: Mode
    override: Override | None = None
    """None: the policy sets the mode."""

    @property
    def source(self) -> str:
        if self.override is None:
            return "policy"
        return "override" if self.override.target else "host override"


@dataclass(frozen=True, slots=True)
class Change:
    """The result of setting or resetting an override."""

    made: tuple[Override, ...]
    """The new overrides, one per target of the scope; empty after a reset."""
    previous: tuple[Override, ...]
    """The overrides that were replaced or removed. They are not restored later."""
    narrower: tuple[Override, ...]
    """Per-target overrides that stay in force, because they take precedence over the host-wide one."""
    problem: str = ""
    """Why the change may be lost at a restart; empty if it is stored."""


class Overrides:
    """The only writer of the map `modes`. Call `restore` before any other method, and again after each
    policy change.

    Thread-safe. Methods raise KernelError if the map cannot be written. Setting a target to enforce also
    raises it if the file cannot be written. Any other change takes effect without the file: `problem` then
    names what a restart may lose, until `retry` has written the file."""

    def __init__(
        self,
        modes: ModeMap,
        targets: Targets,
        path: Path,
        *,
        boot_ns: Callable[[], int] = boot_ns,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._table = ModeTable(modes, targets)
        self._targets = targets
        self._file = OverrideFile(path)
        self._boot_ns = boot_ns
        self._unix_s = unix_s
        self._lock = threading.Lock()
        self._read = False
        self._entries: Entries = {}  # replaced, never mutated: readers take no lock
        self.problem = ""

    def restore(self) -> None:
        """Write the overrides of the file to the kernel's map. Overrides of targets that the policy lacks
        stay in the file only."""
        with self._lock:
            entries = self._entries if self._read else self._stored()
            self._table.write(entries, self._boot_ns())
            self._entries, self._read = entries, True

    def set(self, scope: str | None, mode: Mode, for_s: float | None, *, uid: int, pid: int) -> Change:
        """Set an override. `scope`: None for the host, `service` for all classes of a service, or
        `service/class`. `for_s`: seconds until the override ends; None: it has no deadline. Raises ModeError
        if the policy has no such target."""
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
        """Remove the overrides of a scope, including those of targets that the policy no longer has.
        Resetting the host leaves per-target overrides in force. Raises ModeError if there is no such target.
        """
        with self._lock:
            return self._change(scope, {}, self._reset_by(scope))

    def take_ended(self) -> tuple[Override, ...]:
        """Remove the overrides whose deadline has passed, and return them. Each one is returned once."""
        with self._lock:
            now_ns = self._boot_ns()
            ended = tuple(one for one in self._entries.values() if not one.in_force(now_ns))
            if ended:
                entries = {key: one for key, one in self._entries.items() if one.in_force(now_ns)}
                self._table.write(entries, self._boot_ns())
                self._entries = entries
                self._store()
            return ended

    def retry(self) -> None:
        """Try again to write the file, if the last attempt failed."""
        with self._lock:
            if self.problem:
                self._store()

    def _store(self) -> None:
        try:
            self._file.write(self._entries.values())
        except KernelError as error:
            self.problem = f"{error}; a restart may lose the last change made with `licet mode`"
        else:
            self.problem = ""

    def listed(self) -> list[Override]:
        """The overrides in force, the host's first. Overrides of targets that the policy no longer has are
        included: they apply again when the target returns."""
        now_ns = self._boot_ns()
        in_force = (one for one in self._entries.values() if one.in_force(now_ns))
        return sorted(in_force, key=lambda one: one.scope or "")

    def seconds_left(self, one: Override) -> float | None:
        """Seconds until the override ends; None: it has no deadline."""
        return None if one.until_boot_ns is None else (one.until_boot_ns - self._boot_ns()) / 1e9

    def effective(self, target: Target, policy_mode: Mode) -> Effective:
        """The mode in effect now, computed as the BPF programs compute it."""
        return self._effective(self._entries, target, policy_mode)

    def foresee(self, scope: str | None, mode: Mode | None) -> Callable[[Target, Mode], Effective]:
        """A function like `effective`, for the state after a set or (mode None) a reset. Raises ModeError as
        `set` and `reset` do."""
        if mode is None:
            entries = self._without(self._reset_by(scope))
        else:
            made = {key: Override(key, mode, None, None, 0.0, 0, 0) for key in self._set_by(scope)}
            entries = {**self._entries, **made}
        return lambda target, policy_mode: self._effective(entries, target, policy_mode)

    def enforces_without_help(self, target: Target, policy_mode: Mode) -> bool:
        """True if the target enforces now, or will when an override with a deadline ends. The gates of such a
        target must stay attached: without a daemon, no process could attach them at the deadline."""
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
        """Raises ModeError if `set` or (mode None) `reset` would."""
        if mode is None:
            self._reset_by(scope)
        else:
            self._set_by(scope)

    def _set_by(self, scope: str | None) -> list[Target | None]:
        return _in_scope(scope, self._targets.targets_in_force())

    def _reset_by(self, scope: str | None) -> list[Target | None]:
        """The keys of the overrides that a reset of this scope removes, if they are set."""
        stored = (target for target in self._entries if target is not None)
        return _in_scope(scope, [*self._targets.targets_in_force(), *stored])

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
            # file first: if the map cannot be written now, the next start applies the file
            self._file.write(entries.values())
        try:
            self._table.write(entries, self._boot_ns())
        except KernelError:
            with contextlib.suppress(KernelError):
                self._file.write(before.values())
                self._table.write(before, self._boot_ns())
            raise
        self._entries = entries
        if enforces:
            self.problem = ""
        else:
            self._store()
        return Change(
            made=tuple(made.values()),
            previous=tuple(one for key in keys if (one := before.get(key)) and one.in_force(now_ns)),
            narrower=tuple(one for one in entries.values() if one.target and one.in_force(now_ns))
            if scope is None
            else (),
            problem=self.problem,
        )

    def _stored(self) -> Entries:
        """The overrides of the file. If the kernel's map still holds an override, take the deadline from the
        map. That one is exact: the wall clock may have been set since the file was written."""
        return self._table.with_deadlines(self._file.read(self._unix_s() - self._boot_ns() / 1e9))


def _in_scope(scope: str | None, targets: Iterable[Target]) -> list[Target | None]:
    """The targets in a scope; None stands for the host. Raises ModeError."""
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
    there_are = f"services are {listed(services)}" if services else "no policy is loaded"
    raise ModeError(f"target '{scope}': no service '{service}'; {did_you_mean(service, services, there_are)}")
