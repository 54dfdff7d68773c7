"""What the loading children have in common: the job on stdin, the answer on stdout, and what a failure takes
back. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import KernelError, LicetError
from agent.kernel.compile.compiler import stand_in_for_kallsyms
from agent.system import libbpf

LOCKDOWN = Path("/sys/kernel/security/lockdown")


def answer(run: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Runs the job that stdin holds, in a process of its own, and prints what came of it; the exit code."""
    job = json.load(sys.stdin)
    stand_in_for_kallsyms(Path(job["bpf"]))
    try:
        print(json.dumps(run(job)))
    except LicetError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}))
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(json.dumps({"error": f"{place}{error.strerror or error}", "kind": "KernelError"}))
        return 1
    return 0


@dataclass(slots=True)
class Loaded:
    """What one load has made so far, so that a failure can take it back."""

    new_pins: list[Path] = field(default_factory=list)
    replaced_pins: list[tuple[Path, int]] = field(default_factory=list)
    """With the fd of what was pinned there before."""
    updated_links: list[tuple[Path, int]] = field(default_factory=list)
    """With the fd of the program that ran before."""

    def undo(self) -> None:
        for path in reversed(self.new_pins):
            path.unlink(missing_ok=True)
        for path, before in reversed(self.replaced_pins):
            path.unlink(missing_ok=True)
            libbpf.pin(before, path)
        for path, program in reversed(self.updated_links):
            link = libbpf.open_pin(path)
            libbpf.link_update(link, program)
            os.close(link)


def refuse_lockdown(state: Path = LOCKDOWN) -> None:
    """Raises KernelError where nobody may read kernel memory (kernel_lockdown(7)); without this the verifier
    says so, of a helper that it does not know."""
    try:
        locked = "[confidentiality]" in state.read_text()
    except OSError:
        return  # no such module, or securityfs is not mounted
    if locked:
        raise KernelError(
            "this kernel is locked down (lockdown=confidentiality): no program may read kernel memory, "
            "and licet knows processes by nothing else; boot with lockdown=integrity or none"
        )
