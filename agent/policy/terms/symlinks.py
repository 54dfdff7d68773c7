"""Executables behind symbolic links: operators write the link, the kernel sees the real path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.policy.terms.paths import escape, exe_matches, literal_directory, plain


def spellings(pattern: str, realpaths: Mapping[str, str]) -> Iterator[str]:
    """The pattern as written. For a glob also with the leading directory replaced by its real path: /bin/* is
    /usr/bin/* if /bin is a link."""
    yield pattern
    start = literal_directory(pattern)
    if start != pattern and (end := realpaths.get(start)):
        yield escape(end.rstrip("/")) + pattern[len(start.rstrip("/")) :]


def linked(pattern: str, realpaths: Mapping[str, str]) -> Iterator[str]:
    """The real paths of symbolic links that the pattern matches."""
    if (path := plain(pattern)) is not None:
        if end := realpaths.get(path):
            yield end
        return
    yield from (end for start, end in realpaths.items() if exe_matches(pattern, start))


def exe_selects(pattern: str, path: str, realpaths: Mapping[str, str]) -> bool:
    """True if the pattern means the executable that the kernel calls `path`."""
    if any(exe_matches(each, path) for each in spellings(pattern, realpaths)):
        return True
    return path in linked(pattern, realpaths)
