"""Finds files that the agent reads as root but other users could write. Standard library only."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.system.mounts import read_mounts

MOUNTS = Path("/proc/self/mountinfo")
_MOST_LINKS = 40  # path_resolution(7)
_KUBELET_VOLUME = re.compile(r"/pods/[^/]+/volumes/kubernetes\.io~")


@dataclass(frozen=True, slots=True)
class Doubt:
    """Another user can change a file that the agent reads, or replace it."""

    path: Path
    reason: str
    remedy: str
    refuses: bool
    """False: a warning is enough, and the file is used."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} ({self.remedy})"


def doubts(paths: Iterable[Path]) -> list[Doubt]:
    """Doubts about these files, the targets of links, and all folders above both.

    Missing and inaccessible files are skipped: the code that reads them reports the error."""
    steps = {step: about for path in paths for step, about in _steps(path)}
    return [doubt for step, about in steps.items() if (doubt := _doubt(step, about))]


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every step of the path from / to `path`, including links themselves."""
    here = Path("/")
    yield here, here.lstat()
    ahead = list(reversed(path.absolute().parts[1:]))
    links = 0
    while ahead:
        part = ahead.pop()
        if part == "..":
            here = here.parent
            continue
        step = here / part
        try:
            about = step.lstat()
            leads_to = Path(os.readlink(step)) if stat.S_ISLNK(about.st_mode) else None
        except OSError:
            return
        yield step, about
        if leads_to is None:
            here = step
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        parts = list(leads_to.parts)
        if leads_to.is_absolute():
            here = Path(parts.pop(0))
        ahead.extend(reversed(parts))


def _doubt(path: Path, about: os.stat_result) -> Doubt | None:
    if about.st_uid not in (0, os.geteuid()):
        return Doubt(
            path,
            f"belongs to {_user(about.st_uid)}",
            f"chown {'--no-dereference ' * _is_link(about)}root",
            True,
        )
    is_folder = stat.S_ISDIR(about.st_mode)
    if _is_link(about) or (is_folder and about.st_mode & stat.S_ISVTX):
        return None  # in a sticky folder, users can remove only their own files
    if about.st_mode & stat.S_IWOTH and not (is_folder and _is_kubelet_volume(path)):
        return Doubt(path, "everybody may write to it", "chmod o-w", True)
    if about.st_mode & stat.S_IWGRP and not about.st_mode & stat.S_IWOTH:
        return Doubt(path, f"group {about.st_gid} may write to it", "chmod g-w", False)
    return None


def _is_link(about: os.stat_result) -> bool:
    return stat.S_ISLNK(about.st_mode)


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _is_kubelet_volume(path: Path) -> bool:
    """True for the mount of a volume in a pod. kubelet makes the volume's folder world-writable
    (pkg/volume/emptydir), but on the node only root can enter the folder above it."""
    try:
        mounted = [mount.root for mount in read_mounts(MOUNTS) if mount.point == str(path)]
    except OSError:
        return False
    return bool(mounted) and bool(_KUBELET_VOLUME.search(mounted[-1]))
