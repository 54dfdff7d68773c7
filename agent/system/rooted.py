"""Paths below another root directory, with symbolic links as a process there sees them. Standard library
only."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_MOST_LINKS = 40  # path_resolution(7)


def path_in(root: Path, path: str) -> Path:
    """The real path, as seen from here. An absolute link begins at `root` again, and no `..` leads out of it.
    Raises OSError."""
    steps: list[str] = []
    ahead = _parts(path)
    links = 0
    while ahead:
        part = ahead.pop()
        if part == "..":
            del steps[-1:]
            continue
        step = root.joinpath(*steps, part)
        if not stat.S_ISLNK(step.lstat().st_mode):
            steps.append(part)
            continue
        if (links := links + 1) > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(step))
        leads_to = os.readlink(step)
        if leads_to.startswith("/"):
            steps.clear()
        ahead += _parts(leads_to)
    return root.joinpath(*steps)


def _parts(path: str) -> list[str]:
    """The last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
