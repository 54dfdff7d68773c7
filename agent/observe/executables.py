"""Executables that a policy's selectors can mean: where links lead, what globs find, what is running."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from agent.observe.proc import ProcReader
from agent.policy.paths import exe_matches

MAX_FILES = 50_000
"""Files looked at for one glob; what lies beyond is learned when it runs."""
_NOT_PROGRAMS = frozenset({"/proc", "/sys", "/dev"})
_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Executables:
    found: frozenset[str]
    """Real paths."""
    realpaths: Mapping[str, str]
    """Where a path ends, for those that are or go through a symbolic link: literal paths, the literal
    directory a glob begins with, and files that a glob finds."""


def find_executables(patterns: Iterable[str]) -> Executables:
    """What the file system has for these exe selectors (absolute paths and globs)."""
    found: set[str] = set()
    realpaths: dict[str, str] = {}
    for pattern in patterns:
        if not _GLOB_CHARACTERS.isdisjoint(pattern):
            start = _literal_directory(pattern)
            _follow(start, realpaths)
            found |= {_follow(path, realpaths) for path in islice(_expand(pattern, start), MAX_FILES)}
        elif _is_program(pattern):
            found.add(_follow(pattern, realpaths))
        else:
            _follow(pattern, realpaths)
    return Executables(frozenset(found), realpaths)


def running_executables(reader: ProcReader) -> frozenset[str]:
    """Paths of what runs now, each in its process's own root. Those in mount namespaces made without
    privilege are left out: a name there proves nothing."""
    paths: dict[str, bool] = {}
    for pid in reader.pids():
        path = reader.exe(pid)
        if path and not paths.get(path):
            paths[path] = reader.names_are_trusted(pid)
    return frozenset(path for path, trusted in paths.items() if trusted)


def _follow(path: str, realpaths: dict[str, str]) -> str:
    """The real path, noted if it is another one. A path that leads nowhere is its own."""
    try:
        real = os.path.realpath(path, strict=True)
    except OSError:
        return path
    if real != path:
        realpaths[path] = real
    return real


def _expand(pattern: str, start: str) -> Iterator[str]:
    candidates = _walk(start) if "**" in pattern else glob.iglob(pattern, include_hidden=True)
    # glob's own rules differ from a selector's in small ways
    return (path for path in candidates if exe_matches(pattern, path) and _is_program(path))


def _walk(start: str) -> Iterator[str]:
    """Every file below, links to directories not followed. At most MAX_FILES."""
    seen = 0
    for here, directories, files in os.walk(start):
        directories[:] = [name for name in directories if os.path.join(here, name) not in _NOT_PROGRAMS]
        for name in files:
            yield os.path.join(here, name)
        seen += len(files)
        if seen > MAX_FILES:
            return


def _literal_directory(pattern: str) -> str:
    """The directory before the first component with a glob in it: /opt/x of /opt/x/*/bin."""
    parts = []
    for part in pattern.split("/")[:-1]:
        if not _GLOB_CHARACTERS.isdisjoint(part):
            break
        parts.append(part)
    return "/".join(parts) or "/"


def _is_program(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False  # gone, or a link that leads nowhere
    return stat.S_ISREG(mode) and bool(mode & 0o111)
