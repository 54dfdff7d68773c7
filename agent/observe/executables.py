"""Executables that a policy's selectors can mean: targets of links, matches of globs, and running
programs."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice

from agent.model import Script
from agent.observe.proc import ProcReader
from agent.observe.scripts import script_at
from agent.observe.trails import Trail
from agent.policy.terms.paths import exe_matches, literal_directory

MAX_FILES = 50_000
"""The most files examined for one glob. Further ones become known when they run."""
FILES_READ = 64
"""A glob with more matches is not checked for consisting of scripts only."""
_NOT_PROGRAMS = frozenset({"/proc", "/sys", "/dev"})
_ANYBODY = -1
_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Executables:
    found: frozenset[str]
    """Real paths."""
    realpaths: Mapping[str, str]
    """Real paths of paths that are or pass through a symbolic link. Included are literal paths, the
    literal directory at the start of a glob, and files that a glob finds."""
    scripts: Mapping[str, Script]
    """By selector: a script that the selector finds, if it finds only scripts."""
    for_anybody: frozenset[str] = frozenset()
    """Those of `found` that any user of this host may execute."""
    trails: Mapping[str, Trail] = field(default_factory=dict)
    """By selector: the file system state that this result depends on."""


def find_executables(patterns: Iterable[str]) -> Executables:
    """Search the file system for these exe selectors (absolute paths and globs)."""
    return merged(map(find_one, patterns))


def find_one(pattern: str) -> Executables:
    """Search the file system for one exe selector."""
    realpaths: dict[str, str] = {}
    scripts: dict[str, Script] = {}
    trail = Trail()
    found: set[str] = set()
    if not _GLOB_CHARACTERS.isdisjoint(pattern):
        start = literal_directory(pattern)
        _follow(start, realpaths, trail)
        files = list(islice(_expand(pattern, start, trail), MAX_FILES))
        found = {_follow_found(path, start, realpaths, trail) for path in files}
        _note_scripts(pattern, files, scripts)
    elif _is_program(pattern):
        found = {_follow(pattern, realpaths, trail)}
        _note_scripts(pattern, [pattern], scripts)
    else:
        _follow(pattern, realpaths, trail)
    for_anybody = frozenset(filter(_anybody_may_run, found))
    return Executables(frozenset(found), realpaths, scripts, for_anybody, {pattern: trail})


def merged(parts: Iterable[Executables]) -> Executables:
    """The union of the results of several selectors."""
    found: set[str] = set()
    for_anybody: set[str] = set()
    realpaths: dict[str, str] = {}
    scripts: dict[str, Script] = {}
    trails: dict[str, Trail] = {}
    for one in parts:
        found |= one.found
        for_anybody |= one.for_anybody
        realpaths.update(one.realpaths)
        scripts.update(one.scripts)
        trails.update(one.trails)
    return Executables(frozenset(found), realpaths, scripts, frozenset(for_anybody), trails)


def _note_scripts(pattern: str, files: list[str], scripts: dict[str, Script]) -> None:
    if len(files) > FILES_READ:
        return
    read = [script_at(path) for path in files]
    if read and (first := read[0]) and all(read):
        scripts[pattern] = first


def running_executables(reader: ProcReader) -> frozenset[str]:
    """Paths of the running executables, each in its process's own root. Processes in mount namespaces made
    without privilege are left out: a path there proves nothing."""
    paths: dict[str, bool] = {}
    for pid in reader.pids():
        path = reader.exe(pid)
        if path and not paths.get(path):
            paths[path] = reader.names_are_trusted(pid)
    return frozenset(path for path, trusted in paths.items() if trusted)


def _follow(path: str, realpaths: dict[str, str], trail: Trail) -> str:
    """The real path; recorded in `realpaths` if it differs. A path that leads nowhere is returned as it
    is."""
    real = trail.end(path) or path
    if real != path:
        realpaths[path] = real
    return real


def _follow_found(path: str, start: str, realpaths: dict[str, str], trail: Trail) -> str:
    """_follow() for a file that a glob finds. A link that another user made may lead only to a file of
    that user. If it led to another program, each user of that program would gain the right that the glob
    gives."""
    links: dict[str, str] = {}
    is_known = path in trail.ends
    real = _follow(path, links, trail)
    if not (links or is_known):
        trail.ends.pop(path)  # a change of this entry shows in its directory
    as_found = realpaths.get(start, start).rstrip("/") + path[len(start.rstrip("/")) :]
    if real not in (path, as_found) and not _makers(path, start) <= {_owner(real)}:
        return path
    realpaths.update(links)
    return real


def _makers(path: str, start: str) -> set[int]:
    """Uids other than root that can make links on the way from `start` to `path`. _ANYBODY stands for
    every user."""
    makers = set()
    while path != start and path != "/":
        path = os.path.dirname(path)
        try:
            status = os.stat(path)
        except OSError:
            return {_ANYBODY}
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            makers.add(_ANYBODY)
        elif status.st_uid != 0:
            makers.add(status.st_uid)
    return makers


def _owner(path: str) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return _ANYBODY


def _expand(pattern: str, start: str, trail: Trail) -> Iterator[str]:
    candidates = _walk(start, trail) if "**" in pattern else _glob(pattern, start, trail)
    # glob's rules differ from a selector's in small ways
    return (path for path in candidates if exe_matches(pattern, path) and _is_program(path))


def _glob(pattern: str, start: str, trail: Trail) -> Iterator[str]:
    """Candidates for a match. The trail records each directory that is listed, and each path below its
    entries."""
    found = iter((start.rstrip("/"),))
    for part in pattern[len(start.rstrip("/")) + 1 :].split("/"):
        found = chain.from_iterable(map(partial(_below, part, trail), islice(found, MAX_FILES)))
    return found


def _below(part: str, trail: Trail, above: str) -> Iterator[str]:
    if _GLOB_CHARACTERS.isdisjoint(part):
        trail.end(f"{above}/{part}")
        return iter((f"{above}/{part}",))
    trail.lists(above or "/")
    return glob.iglob(f"{glob.escape(above)}/{part}", include_hidden=True)


def _walk(start: str, trail: Trail) -> Iterator[str]:
    """All files below `start`, without following links to directories; at most MAX_FILES."""
    seen = 0
    trail.lists(start)
    for here, directories, files in os.walk(start):
        for name in directories:
            trail.lists(os.path.join(here, name))
        directories[:] = [name for name in directories if os.path.join(here, name) not in _NOT_PROGRAMS]
        for name in files:
            yield os.path.join(here, name)
        seen += len(files)
        if seen > MAX_FILES:
            return


def _is_program(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False  # removed, or a link that leads nowhere
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _anybody_may_run(path: str) -> bool:
    """True if other users may execute the file and search every directory above it."""
    directories = path.split("/")[1:-1]
    ways = ["/", *("/" + "/".join(directories[: depth + 1]) for depth in range(len(directories)))]
    try:
        return all(os.stat(each).st_mode & stat.S_IXOTH for each in (*ways, path))
    except OSError:
        return False
