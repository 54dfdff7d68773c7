"""Parses the fields of /proc/PID/mountinfo (proc(5)) that licet uses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    root: str
    """The mounted part of the file system: "/" for all of it, "net:[4026531840]" for a namespace."""
    point: str
    kind: str


def read_mounts(mountinfo: Path) -> Iterator[Mount]:
    """Every mount that the reading process can see, in mount order. Raises OSError if the file cannot be
    read."""
    for line in mountinfo.read_bytes().split(b"\n"):
        place, separator, source = line.partition(b" - ")
        fields = place.split(b" ")
        if separator and len(fields) >= 5:
            yield Mount(_text(fields[3]), _text(fields[4]), _text(source.split(b" ")[0]))


def _text(field: bytes) -> str:
    """Decode a field, in which space, tab, newline and backslash are written in octal."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
