"""cgroup2: mount point, ids and paths.

A cgroup's id is the inode number of its directory (64 bits: kernfs_id() in include/linux/kernfs.h).
bpf_get_current_cgroup_id() returns the same number. The kernel never reuses an id until a reboot.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.errors import KernelError
from agent.system.mounts import read_mounts


def find_mount(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path:
    """The mount point of the cgroup2 hierarchy. If several mounts show parts, the one of the whole
    hierarchy is chosen.

    Raises KernelError if there is none."""
    try:
        mounts = [mount for mount in read_mounts(mountinfo) if mount.kind == "cgroup2"]
    except OSError as error:
        raise KernelError(f"{mountinfo}: cannot be read: {error.strerror}; is /proc mounted?") from error
    if not mounts:
        raise KernelError(
            "no cgroup2 file system is mounted, and connections are observed by cgroup: "
            "mount one with: mount -t cgroup2 none /sys/fs/cgroup (or any other empty directory)"
        )
    return Path(min(mounts, key=lambda mount: mount.root != "/").point)


def cgroup_id(mount: Path, path: str) -> int:
    """Id of the cgroup at `path` ("/system.slice/nginx.service"); 0 if there is none."""
    try:
        return os.stat(directory(mount, path)).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return 0


def directory(mount: Path, path: str) -> str:
    """The directory of a cgroup. A path from /proc/PID/cgroup may contain ".." ("/../x"); the result stays
    below mount."""
    return f"{mount}{os.path.normpath('/' + path.lstrip('/'))}"


def list_cgroups(mount: Path) -> Mapping[str, int]:
    """Ids of all cgroups that exist, by path; the root is "/"."""
    found: dict[str, int] = {"/": os.stat(mount).st_ino}
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(f"{mount}{parent}") as entries:
                children = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue  # removed since its parent was listed
        for child in children:
            path = f"{parent}/{child.name}"
            found[path] = child.inode()
            waiting.append(path)
    return found


def delegated_in(mount: Path, paths: Iterable[str]) -> frozenset[str]:
    """Those of the cgroups in which users other than root can make cgroups, or have made one that still
    exists."""
    found = set()
    for path in paths:
        try:
            if others_may_make(os.stat(directory(mount, path))):
                found.add(path)
        except OSError:
            continue  # removed meanwhile
        if made_by_others(mount, path):
            found.add(path.rpartition("/")[0] or "/")
    return frozenset(found)


def made_by_others(mount: Path, path: str) -> bool:
    """True if a user other than root made this cgroup. The directories above do not show that once root
    has taken the tree back. All files of a new cgroup belong to its maker. A cgroup that root gives to a
    user keeps root as the owner of files that are never written, such as cgroup.controllers."""
    here = directory(mount, path)
    try:
        return os.stat(here).st_uid != 0 and os.stat(f"{here}/cgroup.controllers").st_uid != 0
    except OSError:
        return False  # removed meanwhile


def others_may_make(status: os.stat_result) -> bool:
    """True if users other than root can make cgroups in the one with this status."""
    return status.st_uid != 0 or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def processes_in(mount: Path, path: str) -> list[int]:
    """pids of the processes in a cgroup and below it."""
    found: list[int] = []
    for here, _, _ in os.walk(directory(mount, path)):
        try:
            with open(f"{here}/cgroup.procs", "rb") as file:
                found += map(int, file.read().split())
        except OSError:
            continue  # removed meanwhile; EOPNOTSUPP: a threaded cgroup
    return found
