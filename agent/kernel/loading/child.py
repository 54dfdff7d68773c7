"""Shared by the loading children: read the job from stdin, print the answer to stdout, undo a failed load.
Standard library only."""

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
    """Run the job from stdin and print its answer as JSON; the exit code. The process serves one job."""
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
    """The pins and links that one load has made so far, so that a failure can undo them."""

    new_pins: list[Path] = field(default_factory=list)
    replaced_pins: list[tuple[Path, int]] = field(default_factory=list)
    """With the fd of the object that was pinned there before."""
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
    """Raises KernelError where lockdown forbids reading kernel memory (kernel_lockdown(7)). Without this
    check, the verifier would only report an unknown helper."""
    try:
        locked = "[confidentiality]" in state.read_text()
    except OSError:
        return  # the kernel has no lockdown module, or securityfs is not mounted
    if locked:
        raise KernelError(
            "this kernel is locked down (lockdown=confidentiality): no program may read kernel memory, "
            "and licet cannot identify processes without it; boot with lockdown=integrity or none"
        )
