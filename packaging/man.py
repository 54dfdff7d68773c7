"""Prints licet(8), made from the help of every command, so that the page cannot say something else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import typer

import agent
from agent.cli.app import app

FILES = (
    ("/etc/licet/config.yaml", "The agent's own settings."),
    ("/etc/licet/policy.yaml, /etc/licet/policy.d/*.yaml", "The policy, merged in name order."),
    ("/etc/licet/licenses/*.json", "Licenses and revocation lists that vendors signed."),
    ("/etc/licet/keys/*.yaml", "The vendors' keys that may sign them."),
    ("/run/licet/control.sock", "Where the commands ask the daemon: for root and the group licet."),
    ("/var/lib/licet", "What outlives a reboot: ids, modes, license time, the host's key."),
    ("/sys/fs/bpf/licet", "Programs, maps and links. They go on judging while no daemon runs."),
)
EXIT_CODES = (
    ("0", "Fine."),
    ("1", "Failed."),
    ("2", "Wrong usage or configuration."),
    ("3", "The answer is no: a check, a test or a license that did not hold."),
)


def escaped(text: str) -> str:
    r"""Text as groff wants it: no line starts a request, - is a minus that can be copied."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(r"\&" + line if line[:1] in (".", "'") else line for line in text.splitlines())


def page() -> Iterator[str]:
    command: Any = typer.main.get_command(app)
    day = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    yield f'.TH LICET 8 "{day}" "licet {agent.__version__}" "System administration"'
    yield ".SH NAME"
    yield r"licet \- judge connections against a license policy, in the kernel"
    yield ".SH SYNOPSIS"
    yield r".B licet"
    yield r"[\fB\-\-config\fR \fIFILE\fR] \fICOMMAND\fR [\fIOPTION\fR...]"
    yield ".SH DESCRIPTION"
    yield escaped(command.help)
    yield "It observes until the policy, or"
    yield '.BR "licet mode" ,'
    yield "says that a target is enforced."
    yield ".SH COMMANDS"
    for name, one in _commands(command):
        yield from _command(name, one)
    yield ".SH FILES"
    yield from _list(FILES)
    yield ".SH EXIT STATUS"
    yield from _list(EXIT_CODES)


def _commands(group: Any, before: str = "licet") -> Iterator[tuple[str, Any]]:
    for name, one in group.commands.items():
        if one.hidden:
            continue
        if hasattr(one, "commands"):
            yield from _commands(one, f"{before} {name}")
        else:
            yield f"{before} {name}", one


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = [rf"\fB{escaped(name)}\fR"] + ([r"[\fIOPTION\fR...]"] if options else [])
    usage += [rf"[\fI{escaped(one.name.upper())}\fR]" for one in arguments]
    yield f".SS {' '.join(usage)}"
    yield escaped("\n".join(line.strip() for line in (command.help or "").splitlines() if line.strip()))
    yield from _list((_flags(one), one.help or "") for one in options)


def _flags(option: Any) -> str:
    flags = ", ".join((*option.opts, *option.secondary_opts))
    return flags if option.is_flag else f"{flags} {option.name.upper()}"


def _list(pairs: Any) -> Iterator[str]:
    for term, text in pairs:
        yield ".TP"
        yield rf"\fB{escaped(term)}\fR"
        yield escaped(text) or r"\&"


if __name__ == "__main__":
    sys.stdout.write("\n".join(page()) + "\n")
