"""Matches a path with a glob in time linear in the path's length, because the user who runs a program chooses
its path. A regular expression would try every way in which several stars can share it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

SLASH = "/"


class Glob:
    """The state of a match: all ways through the glob at once, as bits of a number. Bit n means that the
    first n steps are done. Each step takes one character, or may be left out."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """`tokens`: of paths._TOKEN. Raises re.error for an invalid class."""
        self._prefix = "".join(takewhile(lambda token: len(token) == 1 and token not in "*?", tokens))
        self._literal: dict[str, int] = {}
        """By character: the steps that consume it and advance."""
        self._classes: list[tuple[int, re.Pattern[str]]] = []
        self._name = 0
        """Steps that consume any character but a slash, and advance."""
        self._any = 0
        self._stay_name = 0
        """Steps that consume any number of characters but slashes, and stay."""
        self._stay_any = 0
        self._skip = 0
        """Steps that may be left out."""
        self._folders = 0
        """First steps of `**/`. They may be left out together with the next step, which is inside a name."""
        bit = 1
        for token in tokens:
            for _ in self._add(token, bit):
                bit <<= 1
        self._last = bit
        self._begin = self._reached(1)

    def _add(self, token: str, bit: int) -> Iterator[None]:
        """Yields once for each step of the token."""
        if token == "**/":
            self._folders |= bit
            self._name |= bit
            self._stay_name |= bit << 1
            yield
        elif token == "**":
            self._any |= bit
            self._stay_any |= bit << 1
            self._skip |= bit << 1
            yield
        elif token == "*":
            self._stay_name |= bit
            self._skip |= bit
        elif token == "?":
            self._name |= bit
        elif len(token) > 1:
            self._classes.append((bit, re.compile(_class(token))))
        else:
            self._literal[token] = self._literal.get(token, 0) | bit
        yield

    def matches(self, path: str) -> bool:
        """Whether the whole path is taken."""
        if not path.startswith(self._prefix):
            return False
        reached = self._begin
        for character in path:
            on = self._any | self._literal.get(character, 0)
            stay, back = self._stay_any, 0
            if character == SLASH:
                back = self._folders << 1
            else:
                on |= self._name
                stay |= self._stay_name
                for bit, taken in self._classes:
                    if reached & bit and taken.match(character):
                        on |= bit
            reached = self._reached((reached & on) << 1 | reached & stay | (reached & back) >> 1)
            if not reached:
                return False
        return bool(reached & self._last)

    def _reached(self, steps: int) -> int:
        """These steps, and those reached by leaving steps out."""
        while True:
            more = steps | (steps & self._skip) << 1 | (steps & self._folders) << 2
            if more == steps:
                return steps
            steps = more


def _class(token: str) -> str:
    """[abc], [a-z], [!abc] as a regular expression that matches one character."""
    inside = token[1:-1]
    negated = inside.startswith("!")
    inside = re.sub(r"([\\^\[\]&~|])", r"\\\1", inside[1:] if negated else inside)
    return f"[{'^' if negated else ''}{inside}]"
