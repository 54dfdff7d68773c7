"""Paths of executables in selectors, with globs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from agent.policy.terms.globs import Glob

_GLOB = re.compile(r"[*?\[]")


class ExeKind(Enum):
    LITERAL = "literal"
    DIRECTORY = "directory"
    """/dir/* without another glob: the directory decides, whatever the file's name."""
    STARRED = "starred"
    """One star in one component: the kernel matches it while it walks the path."""
    OPEN = "open"
    """Any other glob: user space needs the name to match it."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """The shape of a glob with one star, without its text."""

    place: int
    """Of the component with the star: 0 is the file name, 1 its directory."""
    prefix_bytes: int
    suffix_bytes: int

    @property
    def word(self) -> int:
        """The shape as one number, packed as in bpf/lib/glob.h."""
        return self.place | self.prefix_bytes << 8 | self.suffix_bytes << 16


@dataclass(frozen=True, slots=True)
class Starred:
    """A glob with one star in one component, split into parts."""

    components: tuple[str, ...]
    """From the root; the component with the star is ""."""
    place: int
    prefix: str
    suffix: str

    @property
    def shape(self) -> Shape:
        return Shape(
            self.place, *(len(part.encode("utf-8", "surrogateescape")) for part in (self.prefix, self.suffix))
        )


NAME_BYTES = 255
"""The longest possible file name."""


@lru_cache(maxsize=4096)
def exe_kind(pattern: str) -> ExeKind:
    if plain(pattern) is not None:
        return ExeKind.LITERAL
    directory, _, leaf = pattern.rpartition("/")
    if leaf == "*" and not _GLOB.search(directory):
        return ExeKind.DIRECTORY
    return ExeKind.STARRED if starred(pattern) else ExeKind.OPEN


def plain(pattern: str) -> str | None:
    """The one path that the pattern matches; None: it may match several."""
    parts = [_literal(token) for token in _TOKEN.findall(pattern)]
    return None if None in parts else "".join(part for part in parts if part is not None)


def starred(pattern: str) -> Starred | None:
    """None: the pattern has no star, several, or another glob."""
    components = [part for part in pattern.split("/") if part]
    literal = [plain(component) for component in components]
    if literal.count(None) != 1:
        return None
    number = literal.index(None)
    tokens = _TOKEN.findall(components[number])
    at = tokens.index("*") if tokens.count("*") == 1 else -1
    prefix, suffix = (plain("".join(part)) for part in (tokens[:at], tokens[at + 1 :]))
    if at < 0 or prefix is None or suffix is None:
        return None
    try:
        too_long = len((prefix + suffix).encode()) > NAME_BYTES
    except UnicodeEncodeError:
        return None  # not valid text, so it is unclear where a character ends
    if too_long:
        return None
    return Starred(tuple(part or "" for part in literal), len(components) - 1 - number, prefix, suffix)


def _literal(token: str) -> str | None:
    """The one character that a token of a glob stands for: x, and [x]."""
    if len(token) == 1:
        return None if _GLOB.match(token) else token
    return token[1] if len(token) == 3 and token[0] == "[" and token[1] != "!" else None


def directory_of(path: str) -> str:
    """/opt/x/y → /opt/x; /init → /"""
    return path.rpartition("/")[0] or "/"


def literal_directory(pattern: str) -> str:
    """The directory that a glob begins with: /opt/x of /opt/x/b*/y. For a literal path, the path itself."""
    found = _GLOB.search(pattern)
    return directory_of(pattern[: found.start()]) if found else pattern


def escape(path: str) -> str:
    """A glob that matches exactly this path (there is a program called /usr/bin/[)."""
    return _GLOB.sub(lambda found: f"[{found[0]}]", path)


def components(path: str) -> int:
    return len([part for part in path.split("/") if part])


def exe_matches(pattern: str, path: str) -> bool:
    """`*` and `?` stop at a slash, `**` does not; a leading dot is a character like any other."""
    return _compiled(pattern).matches(path)


def glob_mistake(pattern: str) -> str:
    """What is wrong with a glob; "" if it is valid."""
    if "[" in (token for token in _TOKEN.findall(pattern)):
        return "a [ that is never closed"
    try:
        _compiled(pattern)
    except re.error as error:
        return str(error)
    return ""


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Glob:
    return Glob(_TOKEN.findall(pattern))


_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]|.", re.DOTALL)
