"""A time namespace (time_namespaces(7)) may shift CLOCK_BOOTTIME for the processes in it. The kernel does
not shift it for its programs: bpf_ktime_get_boot_ns() is the host's."""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import KernelError

_OWN, _OF_CHILDREN = "ns/time", "ns/time_for_children"
_INITIAL = "time:[4026531834]"
"""PROC_TIME_INIT_INO of linux/proc_ns.h."""


def refuse_shifted_boot_clock(process: Path = Path("/proc/self")) -> None:
    """Raises KernelError if the boot clock of this process, or of its children, is not the host's. Deadlines
    in the kernel would be wrong by the difference."""
    offsets = process / "timens_offsets"
    try:
        own, of_children = os.readlink(process / _OWN), os.readlink(process / _OF_CHILDREN)
        shift = _boot_shift(offsets.read_text())
    except FileNotFoundError:
        return  # this kernel has no time namespaces
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise KernelError(f"{offsets}: the time namespace cannot be looked at: {why}; run as root") from error
    if own == of_children == _INITIAL:
        return
    if own not in (of_children, _INITIAL):
        what = f"this process is in another time namespace ({own}) than its children will be"
    elif shift == "0 0":
        return
    else:
        what = f"the boot clock is shifted by {shift.partition(' ')[0]} s in this time namespace"
    raise KernelError(
        f"{offsets}: {what}, and the programs in the kernel go by the host's; start licet in the host's time "
        "namespace (`nsenter --target 1 --time licet …`; in a container: without an offset of the boot clock)"
    )


def _boot_shift(offsets: str) -> str:
    """SECONDS NANOSECONDS, from the line of CLOCK_BOOTTIME, by which the namespace's children are shifted."""
    for line in offsets.splitlines():
        clock, seconds, nanoseconds = line.split()
        if clock in ("boottime", "7"):  # Linux before 5.7 wrote the number
            return f"{int(seconds)} {int(nanoseconds)}"
    raise ValueError("no line of the boot clock")
