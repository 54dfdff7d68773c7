"""Which mount a path is on. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

_KEY = "mnt_id:"


def mount_id(path: Path) -> int:
    """Id of the mount that `path` leads to. A bind mount has one of its own, and the device of what it shows.
    Raises OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        # proc_pid_fdinfo(5); Python has no statx(2) before 3.15
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii").splitlines()
    finally:
        os.close(descriptor)
    return next(int(line.removeprefix(_KEY)) for line in lines if line.startswith(_KEY))


def mount_or_none(path: Path) -> int | None:
    """The same, or None if nothing is there that can be opened."""
    try:
        return mount_id(path)
    except OSError:
        return None


def is_mount(path: Path) -> bool:
    """True if another mount than that of the folder above is there. Raises OSError."""
    real = path.resolve()
    return mount_id(real) != mount_id(real.parent)
