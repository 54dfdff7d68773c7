"""The executable of a process from /proc/PID/exe. These functions never query the file system of the
executable, because a user may serve it."""

from __future__ import annotations

import os

from agent.model import MEMFD
from agent.observe.proc_files import GONE
from agent.observe.unasked import File, file_at, file_of

DELETED = " (deleted)"
_IN_MEMORY = "/memfd:"


def exe_at(place: int) -> str:
    """Path of the executable; "" for a kernel thread, or without permission. `place`: an fd of the
    process's directory."""
    shown = link_at(place, "exe")
    return _without_mark(place) if shown.endswith(DELETED) else shown


def link_at(place: int, name: str) -> str:
    """The target of a link; "" if there is none (a kernel thread has no exe) or without permission."""
    try:
        return os.readlink(name, dir_fd=place)
    except GONE:
        return ""


def _without_mark(place: int) -> str:
    """The path of an executable whose link ends in " (deleted)". The kernel appends this mark to the name
    of a removed file (d_path() in fs/d_path.c). But a user can also name an existing file so."""
    try:
        # one fd for both checks: the process may exec another program between two reads
        fd = os.open("exe", os.O_PATH | os.O_CLOEXEC, dir_fd=place)
    except GONE:
        return link_at(place, "exe").removesuffix(DELETED)
    try:
        shown = os.readlink(f"/proc/self/fd/{fd}")
        if not shown.endswith(DELETED):
            return shown
        if shown.startswith(_IN_MEMORY):
            return MEMFD
        file = file_of(fd)
        # the file was removed, but has another hard link: a file at the shown path is then a different one
        itself = file.links and any(_is_file(path, file) for path in (shown, _in_its_root(place, shown)))
        return shown if itself else shown.removesuffix(DELETED)
    except OSError:
        # root may not look into a user's own file system; the user may have written the mark
        return shown
    finally:
        os.close(fd)


def _in_its_root(place: int, path: str) -> str:
    return f"/proc/self/fd/{place}/root{path}"


def _is_file(path: str, file: File) -> bool:
    """True if `path` is this file. Only the kernel's cache is searched, which has the path of a running
    program. A user's file system is never queried."""
    found = file_at(path)
    return found is not None and (found.device, found.inode) == (file.device, file.inode)
