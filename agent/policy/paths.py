"""Paths of executables in selectors, with globs."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache

_GLOB = re.compile(r"[*?\[]")


class ExeKind(Enum):
    LITERAL = "literal"
    DIRECTORY = "directory"
    """/dir/* with no other glob: the directory decides, whatever the file is called."""
    OPEN = "open"
    """Any other glob: it takes the name to tell."""


def exe_kind(pattern: str) -> ExeKind:
    if not _GLOB.search(pattern):
        return ExeKind.LITERAL
    directory, _, leaf = pattern.rpartition("/")
    return ExeKind.DIRECTORY if leaf == "*" and not _GLOB.search(directory) else ExeKind.OPEN


def directory_of(path: str) -> str:
    """/opt/x/y → /opt/x; /init → /"""
    return path.rpartition("/")[0] or "/"


def literal_directory(pattern: str) -> str:
    """The directory a glob begins with: /opt/x of /opt/x/b*/y. Of a literal path, the path itself."""
    found = _GLOB.search(pattern)
    return directory_of(pattern[: found.start()]) if found else pattern


def escape(path: str) -> str:
    """A glob that matches exactly this path (there is a program called /usr/bin/[)."""
    return _GLOB.sub(lambda found: f"[{found[0]}]", path)


def components(path: str) -> int:
    return len([part for part in path.split("/") if part])


def exe_matches(pattern: str, path: str) -> bool:
    """`*` and `?` stop at a slash, `**` does not; a leading dot is a character like any other."""
    return _compiled(pattern).fullmatch(path) is not None


def glob_mistake(pattern: str) -> str:
    """What is wrong with a glob; "" if nothing is."""
    if "[" in (token for token in _TOKEN.findall(pattern)):
        return "a [ that is never closed"
    try:
        _compiled(pattern)
    except re.error as error:
        return str(error)
    return ""


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(_translate(pattern)), re.DOTALL)


_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]|.", re.DOTALL)


def _translate(pattern: str) -> list[str]:
    parts = []
    for token in _TOKEN.findall(pattern):
        if token == "**/":
            parts.append("(?:[^/]+/)*")
        elif token == "**":
            parts.append(".+")
        elif token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        elif len(token) > 1:
            parts.append(_translate_class(token))
        else:
            parts.append(re.escape(token))
    return parts


def _translate_class(token: str) -> str:
    inside = token[1:-1]
    negated = inside.startswith("!")
    inside = re.sub(r"([\\^\[\]&~|])", r"\\\1", inside[1:] if negated else inside)
    # Neither kind of class may match a slash.
    return f"(?!/)[{'^' if negated else ''}{inside}]"
