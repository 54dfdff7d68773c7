"""Converts YAML text to plain values that remember their lines.

It is built on parser events rather than yaml.load. So duplicate keys, nesting, aliases and tags are checked,
each with its line, before any value is built from them.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent import given
from agent.policy.values import Finding, Place

MAX_BYTES = 32 << 20
SPLIT = "split it into policy.d/*.yaml"
MAX_DEPTH = 16
MAX_NODES = 500_000
"""Limit of values in one file. Values repeated through aliases count each time."""

Location = tuple[str | int, ...]
"""The keys and list positions that lead to a value: ("services", "db", "ports", 0)."""

_TAG = "tag:yaml.org,2002:"
_BUILDERS = {
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}bool": yaml.SafeLoader.construct_yaml_bool,
    f"{_TAG}int": yaml.SafeLoader.construct_yaml_int,
    f"{_TAG}float": yaml.SafeLoader.construct_yaml_float,
    f"{_TAG}timestamp": yaml.SafeLoader.construct_yaml_timestamp,
}
_NUMBERS = {
    f"{_TAG}int": re.compile("-?(0|[1-9][0-9]*)"),
    f"{_TAG}float": re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+"),
}
"""The accepted notation of numbers. YAML 1.1 also accepts 0443 (octal), 22:22 (base 60), 0x1bb and 1_000."""
_READABLE = {
    errno.EINVAL: "name a file, or a pipe as /dev/stdin",
    None: "start its writer first, or name a file",
}
"""Remedies by the error of open() or read(); None: no process wrote to a FIFO."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Text:
    """The content of one file. `data` is None for an empty file."""

    file: str
    data: Any
    lines: Mapping[Location, int]

    def place(self, location: Location) -> Place:
        """Where a key or list item is written. For a value inside an alias: where the alias is."""
        while location and location not in self.lines:
            location = location[:-1]
        return Place(self.file, self.lines.get(location, 1))


class Unreadable(Exception):
    """The file is not YAML that licet accepts; `findings` has the reasons."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(findings)
        self.findings = findings


def read_yaml(path: Path, most: int = MAX_BYTES, too_large: str = SPLIT) -> Text:
    """Reads the file that a user named, which may be a pipe. Raises Unreadable with every duplicate key, or
    with the one mistake that stopped the parser."""
    return parse_content(read_content(path, most, too_large), str(path))


def parse_content(content: bytes, name: str) -> Text:
    """Like read_yaml, for file content that was read already."""
    return parse_yaml(_decoded(content, name), name)


def parse_yaml(text: str, name: str) -> Text:
    """Like read_yaml, for text that was read already."""
    try:
        loader = _Loader(text)
        try:
            builder = _Builder(name, loader)
            data = builder.document()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # for a text that ends too early, name its last line, not the line after it
        line = min(mark.line + 1, max(1, len(text.splitlines()))) if mark else None
        raise _unreadable(name, line, f"not YAML: {error.problem}", _remedy(error, text)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unreadable(
            name, line, f"a character that YAML does not allow: {error.reason}", "remove it"
        ) from error
    if builder.findings:
        raise Unreadable(builder.findings)
    return Text(name, data, builder.lines)


def read_content(
    path: Path,
    most: int = MAX_BYTES,
    too_large: str = SPLIT,
    read: Callable[[Path, int], bytes] = given.read,
) -> bytes:
    """At most `most` bytes. `too_large`: the remedy for a larger file. Raises Unreadable."""
    name = str(path)
    try:
        raw = read(path, most + 1)
    except OSError as error:
        raise _unreadable(
            name, None, f"cannot be read: {error.strerror}", _READABLE.get(error.errno, "")
        ) from error
    if len(raw) > most:
        raise _unreadable(name, None, f"larger than {most >> 20} MiB", too_large)
    return raw


def _decoded(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unreadable(name, line, "not UTF-8 text", "save the file as UTF-8") from error


def _unreadable(name: str, line: int | None, reason: str, remedy: str = "") -> Unreadable:
    return Unreadable([Finding(Place(name, line), reason, remedy)])


def _remedy(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    # YAML counts other line breaks than \n too, so the line may lie elsewhere, or nowhere.
    line = "".join(text.split("\n")[mark.line : mark.line + 1]) if mark else ""
    if mark and line[mark.column : mark.column + 1] == "\t":
        return "indent with spaces, not tabs"
    return str(error.context) if error.context else ""


def _events(loader: Any) -> Iterator[Any]:
    while loader.check_event():
        yield loader.get_event()


@dataclass(frozen=True, slots=True)
class _Anchor:
    value: Any
    nodes: int


class _Builder:
    """Builds the values of one document from its events. MAX_DEPTH bounds the recursion."""

    def __init__(self, name: str, loader: Any) -> None:
        self._name = name
        self._loader = loader
        self._events = _events(loader)
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = 0
        self.lines: dict[Location, int] = {}
        self.findings: list[Finding] = []

    def document(self) -> Any:
        data = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._stop(event, "a second YAML document", "keep one document in a file")
                data = self._value(next(self._events), (), 0)
        return data

    def _value(self, event: Any, location: Location, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._nodes
        self._count(event, 1)
        if depth > MAX_DEPTH:
            raise self._stop(event, f"nested deeper than {MAX_DEPTH} levels", "no file needs more than 8")
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._refuse_tag(event, "seq")
            value = self._sequence(location, depth)
        else:
            self._refuse_tag(event, "map")
            value = self._mapping(location, depth)
        if event.anchor:
            # The anchor is known only from here on: an alias inside its own anchor makes no loop.
            self._anchors[event.anchor] = _Anchor(value, self._nodes - before)
        return value

    def _sequence(self, location: Location, depth: int) -> list[Any]:
        values: list[Any] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            here = (*location, len(values))
            self.lines[here] = event.start_mark.line + 1
            values.append(self._value(event, here, depth + 1))
        return values

    def _mapping(self, location: Location, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event)
            here = (*location, key)
            line = event.start_mark.line + 1
            if key in values:
                self.findings.append(
                    Finding(
                        Place(self._name, line),
                        f"key '{key}' was already given at line {self.lines[here]}",
                        "YAML would silently keep one of them: remove or rename one",
                    )
                )
            self.lines[here] = line
            values[key] = self._value(next(self._events), here, depth + 1)
        return values

    def _key(self, event: Any) -> str:
        self._count(event, 1)
        if not isinstance(event, yaml.ScalarEvent):
            raise self._stop(event, "a key that is not text", "write `key: value`")
        if event.value == "<<" and event.implicit[0]:
            raise self._stop(event, "merge keys (<<) are not supported", "write the keys out")
        value = self._scalar(event)
        if not isinstance(value, str):
            raise self._stop(event, f"key {event.value!r} is not text for YAML", f'quote it: "{event.value}"')
        return value

    def _scalar(self, event: Any) -> Any:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == f"{_TAG}str":
            return event.value
        build = _BUILDERS.get(tag)
        if build is None:
            raise self._stop(event, f"tag {tag} is not supported", "remove the tag")
        plain = _NUMBERS.get(tag)
        if plain and not plain.fullmatch(event.value):
            self._refuse_number(event)
        try:
            return build(self._loader, yaml.ScalarNode(tag, event.value))
        except (
            ValueError,
            LookupError,
            OverflowError,
            AttributeError,
        ):  # what PyYAML raises for invalid values
            # It looks like a number or a date but is none (2027-13-01): the value's reader reports it.
            return event.value

    def _refuse_number(self, event: Any) -> None:
        self.findings.append(
            Finding(
                Place(self._name, event.start_mark.line + 1),
                f"'{event.value}' is not a plain decimal number, and YAML would read another number",
                f'write the number in decimal digits alone, or quote it where text is meant: "{event.value}"',
            )
        )

    def _alias(self, event: Any) -> Any:
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            raise self._stop(event, f"alias *{event.anchor} has no anchor before it", "define &… first")
        self._count(event, anchor.nodes)
        return anchor.value

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            reason = f"more than {MAX_NODES:,} values"
            if self._anchors:
                raise self._stop(event, f"{reason}, with aliases written out", "use fewer aliases")
            raise self._stop(event, reason, "write ranges for ports, networks for addresses, globs for names")

    def _refuse_tag(self, event: Any, kind: str) -> None:
        if event.tag not in (None, "!", f"{_TAG}{kind}"):
            raise self._stop(event, f"tag {event.tag} is not supported", "remove the tag")

    def _stop(self, event: Any, reason: str, remedy: str) -> Unreadable:
        line = event.start_mark.line + 1
        return Unreadable([*self.findings, Finding(Place(self._name, line), reason, remedy)])
