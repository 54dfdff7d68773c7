"""Stores mode overrides in the state directory, so that they survive a restart and a reboot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import KernelError
from agent.model import Mode, PortClass, Target
from agent.system import files


@dataclass(frozen=True, slots=True)
class Override:
    """A mode set at run time, with the user, the process and the time. The deadline is stored twice: in boot
    time, as the kernel needs it, and in Unix time, which is still valid after a reboot."""

    target: Target | None
    """None: the whole host."""
    mode: Mode
    until_boot_ns: int | None
    """None: the override has no deadline."""
    until_unix_s: float | None
    since_unix_s: float
    uid: int
    pid: int

    @property
    def scope(self) -> str | None:
        return str(self.target) if self.target else None

    def in_force(self, now_boot_ns: int) -> bool:
        return self.until_boot_ns is None or now_boot_ns < self.until_boot_ns


class OverrideFile:
    """{"overrides": [{"target": "db/admin" or null, "mode", "until_unix_s" or null, "since_unix_s", "uid",
    "pid"}]}. The file is written as a whole and renamed into place."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, boot_offset_s: float) -> list[Override]:
        """Read all overrides. `boot_offset_s` is the wall clock minus CLOCK_BOOTTIME. Raises KernelError if
        the file is damaged. A guess could enforce a target that an operator has set to observe."""
        try:
            stored = files.read_json(self._path)
            return [_from_json(one, boot_offset_s) for one in stored["overrides"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KernelError(f"{self._path}: cannot be read: {error.strerror}; {self._remedy()}") from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise KernelError(
                f"{self._path}: damaged ({type(error).__name__}: {error}); {self._remedy()}"
            ) from error

    def _remedy(self) -> str:
        return (
            f"move it away (mv {self._path} {self._path}.bad), then set the overrides again with "
            "`licet mode`; until then the policy's modes apply"
        )

    def write(self, overrides: Iterable[Override]) -> None:
        """Replace the file. Raises KernelError; the previous content is then unchanged."""
        try:
            files.write_text(self._path, json.dumps({"overrides": [_to_json(one) for one in overrides]}))
        except OSError as error:
            raise KernelError(f"{self._path}: cannot be written: {error.strerror}") from error


def _to_json(one: Override) -> dict[str, Any]:
    return {
        "target": one.scope,
        "mode": one.mode.value,
        "until_unix_s": one.until_unix_s,
        "since_unix_s": one.since_unix_s,
        "uid": one.uid,
        "pid": one.pid,
    }


def _from_json(stored: dict[str, Any], boot_offset_s: float) -> Override:
    until_s = stored["until_unix_s"]
    return Override(
        target=None if stored["target"] is None else _target(stored["target"]),
        mode=Mode(stored["mode"]),
        until_boot_ns=None if until_s is None else max(0, int((until_s - boot_offset_s) * 1e9)),
        until_unix_s=None if until_s is None else float(until_s),
        since_unix_s=float(stored["since_unix_s"]),
        uid=int(stored["uid"]),
        pid=int(stored["pid"]),
    )


def _target(text: str) -> Target:
    service, _, port_class = text.rpartition("/")
    return Target(service, PortClass(port_class))
