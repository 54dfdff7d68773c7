"""Executables that a policy's selectors can mean: where links lead, what globs find, what is running."""

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
"""Files looked at for one glob; what lies beyond is learned when it runs."""
FILES_READ = 64
"""A glob that finds more is not asked whether it finds only scripts."""
_NOT_PROGRAMS = frozenset({"/proc", "/sys", "/dev"})
_ANYBODY = -1
_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Executables:
    found: frozenset[str]
    """Real paths."""
    realpaths: Mapping[str, str]
    """Where a path ends, for those that are or go through a symbolic link: literal paths, the literal
    directory a glob begins with, and files that a glob finds."""
    scripts: Mapping[str, Script]
    """By selector: a script that it finds, where it finds nothing else."""
    for_anybody: frozenset[str] = frozenset()
    """Of those found, the ones that any user of this host may execute."""
    trails: Mapping[str, Trail] = field(default_factory=dict)
    """By selector: what says that all this is so."""


def find_executables(patterns: Iterable[str]) -> Executables:
    """What the file system has for these exe selectors (absolute paths and globs)."""
    return merged(map(find_one, patterns))


def find_one(pattern: str) -> Executables:
    """The same for one selector."""
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
    """Of several selectors."""
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
    """Paths of what runs now, each in its process's own root. Those in mount namespaces made without
    privilege are left out: a name there proves nothing."""
    paths: dict[str, bool] = {}
    for pid in reader.pids():
        path = reader.exe(pid)
        if path and not paths.get(path):
            paths[path] = reader.names_are_trusted(pid)
    return frozenset(path for path, trusted in paths.items() if trusted)


def _follow(path: str, realpaths: dict[str, str], trail: Trail) -> str:
    """The real path, noted if it is another one. A path that leads nowhere is its own."""
    real = trail.end(path) or path
    if real != path:
        realpaths[path] = real
    return real


def _follow_found(path: str, start: str, realpaths: dict[str, str], trail: Trail) -> str:
    """As _follow(), of a file that a glob finds. A link of somebody else's leads to what is his alone: to
    another program, it would give everybody who runs that the right that the glob gives to this name."""
    links: dict[str, str] = {}
    is_known = path in trail.ends
    real = _follow(path, links, trail)
    if not (links or is_known):
        trail.ends.pop(path)  # what becomes of it, its directory tells
    as_found = realpaths.get(start, start).rstrip("/") + path[len(start.rstrip("/")) :]
    if real not in (path, as_found) and not _makers(path, start) <= {_owner(real)}:
        return path
    realpaths.update(links)
    return real


def _makers(path: str, start: str) -> set[int]:
    """Who else than root can make links on the way from `start` to `path`; anybody: a number of nobody's."""
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
    # glob's own rules differ from a selector's in small ways
    return (path for path in candidates if exe_matches(pattern, path) and _is_program(path))


def _glob(pattern: str, start: str, trail: Trail) -> Iterator[str]:
    """What may match. On the trail is each directory that is listed, and each path below its entries."""
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
    """Every file below, links to directories not followed. At most MAX_FILES."""
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
        return False  # gone, or a link that leads nowhere
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _anybody_may_run(path: str) -> bool:
    """The file, and every directory on the way to it, is open to others."""
    directories = path.split("/")[1:-1]
    ways = ["/", *("/" + "/".join(directories[: depth + 1]) for depth in range(len(directories)))]
    try:
        return all(os.stat(each).st_mode & stat.S_IXOTH for each in (*ways, path))
    except OSError:
        return False
