"""The executable of a process, as /proc/PID/exe shows it. No file system is asked: a user may serve it."""

from __future__ import annotations

import os

from agent.model import MEMFD
from agent.observe.unasked import File, file_at, file_of

DELETED = " (deleted)"
_IN_MEMORY = "/memfd:"
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def exe_at(place: int) -> str:
    """place: an fd of the process's directory. "": a kernel thread, or not to be read."""
    shown = link_at(place, "exe")
    return _without_mark(place) if shown.endswith(DELETED) else shown


def link_at(place: int, name: str) -> str:
    """Where a link leads; "" if nowhere (a kernel thread has no exe) or if it may not be read."""
    try:
        return os.readlink(name, dir_fd=place)
    except _GONE:
        return ""


def _without_mark(place: int) -> str:
    """The path of an executable that is shown as deleted. The kernel puts the mark behind the name of a file
    that was removed (d_path() in fs/d_path.c), and anybody may give it to a file that is there."""
    try:
        # of one and the same file: the process may become another between two looks
        fd = os.open("exe", os.O_PATH | os.O_CLOEXEC, dir_fd=place)
    except _GONE:
        return link_at(place, "exe").removesuffix(DELETED)
    try:
        shown = os.readlink(f"/proc/self/fd/{fd}")
        if not shown.endswith(DELETED):
            return shown
        if shown.startswith(_IN_MEMORY):
            return MEMFD
        file = file_of(fd)
        # removed by this name, and still there by another (a hard link): the file that is shown is not
        itself = file.links and any(_is_file(path, file) for path in (shown, _in_its_root(place, shown)))
        return shown if itself else shown.removesuffix(DELETED)
    except OSError:
        # a file system of a user's own, into which root may not look: he may have written the mark
        return shown
    finally:
        os.close(fd)


def _in_its_root(place: int, path: str) -> str:
    return f"/proc/self/fd/{place}/root{path}"


def _is_file(path: str, file: File) -> bool:
    """By a name that is in use, as a running program's is: a file system that a user serves is not asked."""
    found = file_at(path)
    return found is not None and (found.device, found.inode) == (file.device, file.inode)
