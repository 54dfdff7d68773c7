"""Where no daemon answers: what its programs in the kernel do meanwhile, and what to do about it."""

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
from agent.export.text import printable
from agent.kernel.pins import Pins
from agent.kernel.tables.in_force import InForce, TargetMode, in_force
from agent.model import Target
from agent.policy.tables.ids import Ids
from agent.system import files

ANSWER_WITHIN_S = 10.0
"""Whoever asks what is going on is not left waiting by a daemon that hangs."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What the programs in the kernel do while no daemon answers."""

    error: str
    holder: int
    """pid of a daemon that runs and does not answer; 0: none runs."""
    kernel: InForce | None
    unreadable: str
    """Why nobody knows what the kernel does; empty: `kernel` says it, None being nothing."""
    targets: Mapping[int, Target]
    """By number; where one is missing, its name is not known."""
    is_starting: bool = False
    """A daemon runs, and nobody listens on its socket."""
    is_stopped: bool = False
    """A daemon is there, and does nothing until it is sent SIGCONT."""

    def lines(self) -> list[str]:
        return [self.error, self._kernel(), self._remedy()]

    def to_json(self) -> dict[str, object]:
        """As docs/status.md, "Without a daemon", has it."""
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
            return f"what its programs do in the kernel is not known: {self.unreadable}"
        if found is None:
            return "nothing of it is in the kernel: nothing is counted, and nothing is refused"
        if not found.is_readable:
            return (
                f"programs of another version (ABI {found.version}) are in the kernel and go on as they were"
            )
        if not found.refusing:
            return "its programs are in the kernel: they count, and refuse nothing"
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
        """One that hangs does not end by SIGTERM, for which `licet unload` would wait in vain."""
        if self.is_starting and not self.is_stopped:
            return (
                f"the daemon (pid {self.holder}) has not opened its socket: it starts, which takes a minute "
                "where it has to compile; its log says what it does"
            )
        goes_on = (
            f"; it was stopped by a signal, or a debugger: `kill -CONT {self.holder}` lets it go on"
            if self.is_stopped
            else ""
        )
        return (
            f"the daemon (pid {self.holder}) runs and does not answer: restart it (`systemctl kill -s KILL "
            f"licet`, or `kill -9 {self.holder}` and start it); to let go of all that is in the kernel, end "
            f"it so, then `systemctl stop licet` and `licet unload`{goes_on}"
        )

    def _remedy(self) -> str:
        if self.holder:
            return self._of_a_daemon_that_runs()
        who = "" if os.geteuid() == 0 else "as root, "
        start = f"{who}start it (`systemctl start licet`, or `licet run`)"
        if self.kernel is None and not self.unreadable:
            return start
        return f"{start}, or let go of all that is in the kernel with `licet unload`"


def look(settings: Settings, error: DaemonUnreachable) -> Alone:
    """What is known without a daemon, which did not answer with `error`."""
    kernel, unreadable = None, ""
    try:
        kernel = in_force(Pins(settings.paths.pins))
    except PermissionError:
        unreadable = f"only root may look ({settings.paths.pins}): sudo licet status"
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


def tell(alone: Alone, *, as_json: bool) -> None:
    if as_json:
        print_json(alone.to_json())
        return
    for line in alone.lines():
        print(f"licet: {line}", file=sys.stderr)


@contextmanager
def reached(config: Path | None, as_json: bool) -> Iterator[ControlClient]:
    """The daemon's client. One that does not answer is reported, and the command ends with EXIT_FAILED."""
    try:
        yield client(config)
    except DaemonUnreachable as error:
        tell(look(settings_of(config), error), as_json=as_json)
        raise typer.Exit(EXIT_FAILED) from error
    except MayNotAsk as error:
        settings = settings_of(config)
        if _holder(settings) != 0:
            raise
        nobody = DaemonUnreachable(f"no daemon answers at {settings.control_socket} (none runs there)")
        tell(look(settings, nobody), as_json=as_json)
        raise typer.Exit(EXIT_FAILED) from error


def asked(config: Path | None, path: str, as_json: bool) -> Any:
    """The daemon's answer, as `reached`."""
    with reached(config, as_json) as control:
        return control.within(ANSWER_WITHIN_S).get(path)


def answering(config: Path | None, as_json: bool = False) -> ControlClient:
    """The client of a daemon that answers, as `reached`: before it is asked for what takes a while, so that
    one that hangs is reported within seconds."""
    with reached(config, as_json) as control:
        control.within(ANSWER_WITHIN_S).get("/v1/mode")
    return control


def _holder(settings: Settings) -> int | None:
    """Of the run lock; to try it would keep a daemon from starting. 0: nobody; None: not to be found out."""
    try:
        return flock_holder(os.stat(settings.paths.run / "licet.lock").st_ino, settings.paths.proc)
    except FileNotFoundError:
        return 0
    except OSError:
        return None


def _is_stopped(stat: Path) -> bool:
    """proc_pid_stat(5): the state stands behind the name, which may have parentheses of its own."""
    with suppress(OSError, IndexError):
        return stat.read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    return False


def _targets(settings: Settings) -> Mapping[int, Target]:
    """Without them there are numbers, which is better than nothing."""
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        stored = files.read_json(settings.paths.state / "ids.json")
        return Ids.from_json(stored).targets
    return {}


def _clock(until_ns: int) -> str:
    """Local time, with the date where it is not today's."""
    moment = datetime.fromtimestamp(unix_time(until_ns)).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")


def _rfc3339(until_ns: int | None) -> str | None:
    return None if until_ns is None else now_text(unix_time(until_ns), "seconds")
