"""Handles a daemon that does not answer: reports what its kernel programs do meanwhile, and how to restart
it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from agent.cli.output import client, print_json
from agent.cli.running import settings_of
from agent.config import Settings
from agent.daemon.startup.locks import flock_holder
from agent.errors import EXIT_FAILED, DaemonUnreachable, LicetError, MayNotAsk
from agent.export.client import ControlClient
from agent.export.events import now_text, target_fields, unix_time
from agent.export.sanitize import printable
from agent.kernel.pins import Pins
from agent.kernel.tables.in_force import InForce, TargetMode, in_force
from agent.model import Target
from agent.policy.tables.ids import Ids
from agent.system import files

ANSWER_WITHIN_S = 10.0
"""The timeout of status requests, so that a command does not wait for a daemon that hangs."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What the programs in the kernel do while no daemon answers."""

    error: str
    holder: int
    """pid of a daemon that runs but does not answer; 0: no daemon runs."""
    kernel: InForce | None
    unreadable: str
    """Why the state of the kernel programs is not known. Empty: `kernel` is that state, where None means
    nothing is loaded."""
    targets: Mapping[int, Target]
    """Targets by number. A missing number is a target without a known name."""
    is_starting: bool = False
    """A daemon runs, but does not listen on its socket yet."""
    is_stopped: bool = False
    """The daemon is stopped by a signal until it receives SIGCONT."""

    def lines(self) -> list[str]:
        return [self.error, self._kernel(), self._remedy()]

    def to_json(self) -> dict[str, object]:
        """The report as JSON, in the form of docs/status.md, "Without a daemon"."""
        found = self.kernel
        return {
            "daemon": {"answers": False, "pid": self.holder or None, "error": self.error},
            "kernel": None
            if self.unreadable or not found
            else {
                "loaded": found.version,
                "links": found.links,
                "gates": list(found.gates),
                "refuses_on": [
                    {**self._fields(one.target), "until": _rfc3339(one.until_ns)} for one in found.refusing
                ],
            },
            "unreadable": self.unreadable or None,
        }

    def _kernel(self) -> str:
        found = self.kernel
        if self.unreadable:
            return f"the state of its kernel programs is not known: {self.unreadable}"
        if found is None:
            return "none of its programs is in the kernel: nothing is counted, and nothing is refused"
        if not found.is_readable:
            return f"programs of another version (ABI {found.version}) are in the kernel and keep running"
        if not found.refusing:
            return "its programs are in the kernel: they count attempts and refuse nothing"
        where = ", ".join(self._refusing(one) for one in found.refusing)
        return f"its programs are in the kernel and refuse on {where} (gates: {', '.join(found.gates)})"

    def _refusing(self, one: TargetMode) -> str:
        until = f" until {_clock(one.until_ns)}" if one.until_ns is not None else ""
        return self._name(one.target) + until

    def _name(self, number: int) -> str:
        return printable(str(self.targets.get(number, f"target {number}")))

    def _fields(self, number: int) -> dict[str, Any]:
        target = self.targets.get(number)
        return target_fields(target) if target else {"service": None, "class": None, "number": number}

    def _of_a_daemon_that_runs(self) -> str:
        """The remedy for a daemon that runs but does not answer. SIGTERM does not end one that hangs, so
        `licet unload` would wait in vain."""
        if self.is_starting and not self.is_stopped:
            return (
                f"the daemon (pid {self.holder}) has not opened its socket yet: it is starting, which takes "
                "a minute if it has to compile; its log shows its progress"
            )
        resume = (
            f"; a signal or a debugger has stopped it: `kill -CONT {self.holder}` resumes it"
            if self.is_stopped
            else ""
        )
        return (
            f"the daemon (pid {self.holder}) runs but does not answer: restart it (`systemctl kill -s KILL "
            f"licet`, or `kill -9 {self.holder}` and start it); to unload all kernel programs instead, kill "
            f"it the same way, then run `systemctl stop licet` and `licet unload`{resume}"
        )

    def _remedy(self) -> str:
        if self.holder:
            return self._of_a_daemon_that_runs()
        who = "" if os.geteuid() == 0 else "as root, "
        start = f"{who}start it (`systemctl start licet`, or `licet run`)"
        if self.kernel is None and not self.unreadable:
            return start
        return f"{start}, or unload all kernel programs with `licet unload`"


def look(settings: Settings, error: DaemonUnreachable) -> Alone:
    """Collect what is known about the kernel programs. `error`: why the daemon did not answer."""
    kernel, unreadable = None, ""
    try:
        kernel = in_force(Pins(settings.paths.pins))
    except PermissionError:
        unreadable = f"only root can read {settings.paths.pins}: sudo licet status"
    except (OSError, LicetError) as why:
        unreadable = str(why)
    holder = _holder(settings) or 0
    return Alone(
        error.what,
        holder,
        kernel,
        unreadable,
        _targets(settings),
        is_starting=not error.hangs,
        is_stopped=_is_stopped(settings.paths.proc / str(holder) / "stat"),
    )


def report(alone: Alone, *, as_json: bool) -> None:
    if as_json:
        print_json(alone.to_json())
        return
    for line in alone.lines():
        print(f"licet: {line}", file=sys.stderr)


@contextmanager
def reached(config: Path | None, as_json: bool) -> Iterator[ControlClient]:
    """The daemon's client. If the daemon does not answer, report that and end the command with
    EXIT_FAILED."""
    try:
        yield client(config)
    except DaemonUnreachable as error:
        report(look(settings_of(config), error), as_json=as_json)
        raise typer.Exit(EXIT_FAILED) from error
    except MayNotAsk as error:
        settings = settings_of(config)
        if _holder(settings) != 0:
            raise
        nobody = DaemonUnreachable(f"no daemon answers at {settings.control_socket} (none runs there)")
        report(look(settings, nobody), as_json=as_json)
        raise typer.Exit(EXIT_FAILED) from error


def asked(config: Path | None, path: str, as_json: bool) -> Any:
    """The daemon's answer to GET `path`. Errors are handled as in `reached`."""
    with reached(config, as_json) as control:
        return control.within(ANSWER_WITHIN_S).get(path)


def answering(config: Path | None, as_json: bool = False) -> ControlClient:
    """The client of a daemon that answers, as in `reached`. The daemon is probed first, before a slow
    request, so that one that hangs is reported within seconds."""
    with reached(config, as_json) as control:
        control.within(ANSWER_WITHIN_S).get("/v1/mode")
    return control


def _holder(settings: Settings) -> int | None:
    """pid of the process that holds the run lock; 0: no process; None: it cannot be found out. Trying the
    lock instead could keep a daemon from starting."""
    try:
        return flock_holder(os.stat(settings.paths.run / "licet.lock").st_ino, settings.paths.proc)
    except FileNotFoundError:
        return 0
    except OSError:
        return None


def _is_stopped(stat: Path) -> bool:
    """True if /proc/PID/stat shows the process as stopped. The state follows the name, which may contain
    parentheses (proc_pid_stat(5))."""
    with suppress(OSError, IndexError):
        return stat.read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    return False


def _targets(settings: Settings) -> Mapping[int, Target]:
    """Targets by number, as far as they are stored. The report shows bare numbers for the rest."""
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        stored = files.read_json(settings.paths.state / "ids.json")
        return Ids.from_json(stored).targets
    return {}


def _clock(until_ns: int) -> str:
    """Local time, with the date unless it is today."""
    moment = datetime.fromtimestamp(unix_time(until_ns)).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")


def _rfc3339(until_ns: int | None) -> str | None:
    return None if until_ns is None else now_text(unix_time(until_ns), "seconds")
