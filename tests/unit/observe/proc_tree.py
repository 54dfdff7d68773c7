"""A /proc of a test's own: as much of proc(5) as the readers look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def add_process(
    root: Path,
    pid: int,
    *,
    comm: str = "postgres",
    start_ticks: int = 1000,
    uids: Sequence[int] = (0, 0, 0, 0),
    gids: Sequence[int] = (0, 0, 0, 0),
    groups: Sequence[int] = (),
    exe: str | None = "/usr/bin/postgres",
    cmdline: bytes = b"postgres\0-D\0/var/lib/data\0",
    cgroup: str = "/system.slice/postgresql.service",
    sockets: Mapping[int, int] | None = None,
    netns: int = 4026531840,
) -> Path:
    """The process's directory. `sockets` is inode by descriptor; exe None is a kernel thread's."""
    place = root / str(pid)
    (place / "fd").mkdir(parents=True)
    (place / "ns").mkdir()
    before_start = "S 1 " + " ".join(["0"] * 17)
    (place / "stat").write_text(f"{pid} ({comm}) {before_start} {start_ticks} 12345 678\n")
    (place / "status").write_text(
        f"Name:\t{comm}\nUmask:\t0022\nPid:\t{pid}\nUid:\t{_tabs(uids)}\nGid:\t{_tabs(gids)}\n"
        f"Groups:\t{' '.join(map(str, groups))} \nThreads:\t1\n"
    )
    (place / "cmdline").write_bytes(cmdline)
    (place / "cgroup").write_text(f"2:cpu:/legacy\n0::{cgroup}\n")
    if exe is not None:
        (place / "exe").symlink_to(exe)
    (place / "ns" / "net").symlink_to(f"net:[{netns}]")
    (place / "fd" / "0").symlink_to("/dev/null")
    for fd, inode in (sockets or {}).items():
        hold(root, pid, fd, inode)
    return place


def hold(root: Path, pid: int, fd: int, inode: int) -> None:
    (root / str(pid) / "fd" / str(fd)).symlink_to(f"socket:[{inode}]")


def let_go(root: Path, pid: int, fd: int) -> None:
    (root / str(pid) / "fd" / str(fd)).unlink()


def remove_process(root: Path, pid: int) -> None:
    place = root / str(pid)
    for part in sorted(place.rglob("*"), reverse=True):
        part.rmdir() if part.is_dir() and not part.is_symlink() else part.unlink()
    place.rmdir()


def _tabs(numbers: Sequence[int]) -> str:
    return "\t".join(map(str, numbers))
