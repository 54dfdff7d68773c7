"""Files of /proc/PID, read and parsed (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass

GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""The errors for a process that has ended, or that may not be read (hidepid, EPERM)."""
READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/PID/stat that distinguishes a process from a later one with the same pid."""

    comm: str
    start_ticks: int


def namespace_inode(link: str) -> int:
    """The number in "net:[4026531840]"; 0 for any other text."""
    return bracketed(link, "net:[")


def socket_inode(link: str) -> int:
    return bracketed(link, "socket:[")


def bracketed(link: str, prefix: str) -> int:
    return int(link[len(prefix) : -1]) if link.startswith(prefix) else 0


def read(place: int, name: str, limit: int = READ_BYTES) -> bytes:
    return read_and_close(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place), limit)


def read_and_close(fd: int, limit: int) -> bytes:
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def parse_stat(text: bytes) -> Stat:
    # comm may contain any character, including blanks and parentheses, so it ends at the last ")"
    name, _, rest = text.rpartition(b")")
    if not rest:
        raise ProcessLookupError  # the file is empty while the process ends
    return Stat(comm=os.fsdecode(name.partition(b"(")[2]), start_ticks=int(rest.split()[19]))


def image_in(stat: bytes) -> tuple[bytes, ...]:
    """Addresses of the program's stack and arguments, which change with each execve(2). They are zeros for
    a reader without permission (proc_pid_stat(5): startstack, arg_start)."""
    fields = stat.rpartition(b")")[2].split()
    return (fields[25], fields[45]) if len(fields) > 45 else ()


def parse_status(text: bytes) -> dict[str, list[bytes]]:
    wanted = {b"Uid": "Uid", b"Gid": "Gid", b"Groups": "Groups"}
    found = {}
    for line in text.split(b"\n"):
        key, _, values = line.partition(b":")
        if key in wanted:
            found[wanted[key]] = values.split()
    if len(found) < len(wanted):
        raise ProcessLookupError
    return found


def parse_cgroup(text: bytes) -> str:
    """The cgroup2 path; "" if only cgroup1 is mounted."""
    for line in text.split(b"\n"):
        if line.startswith(b"0::"):
            return os.fsdecode(line[3:])
    return ""


def parse_args(text: bytes) -> tuple[str, ...]:
    # a title written over the arguments (nginx, postgres) leaves NUL bytes behind
    stripped = text.rstrip(b"\0")
    return tuple(os.fsdecode(part) for part in stripped.split(b"\0")) if stripped else ()
