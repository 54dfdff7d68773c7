"""Executables behind symbolic links: the kernel sees where a path ends, operators write where it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.policy.terms.paths import escape, exe_matches, literal_directory, plain


def spellings(pattern: str, realpaths: Mapping[str, str]) -> Iterator[str]:
    """The pattern as written; a glob also with the directory it begins with replaced by where that ends:
    /bin/* is /usr/bin/* where /bin is a link."""
    yield pattern
    start = literal_directory(pattern)
    if start != pattern and (end := realpaths.get(start)):
        yield escape(end.rstrip("/")) + pattern[len(start.rstrip("/")) :]


def linked(pattern: str, realpaths: Mapping[str, str]) -> Iterator[str]:
    """Where the paths end that the pattern matches and that are symbolic links."""
    if (path := plain(pattern)) is not None:
        if end := realpaths.get(path):
            yield end
        return
    yield from (end for start, end in realpaths.items() if exe_matches(pattern, start))


def exe_selects(pattern: str, path: str, realpaths: Mapping[str, str]) -> bool:
    """True if an executable the kernel calls `path` is what the pattern means."""
    if any(exe_matches(each, path) for each in spellings(pattern, realpaths)):
        return True
    return path in linked(pattern, realpaths)
