"""Files that outlive a process: read so that nothing that lies there can hold the reader up, and written in
one step. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_bytes(path: Path, most: int = -1) -> bytes:
    """At most `most` bytes. Raises OSError for all but a regular file, and says what it is: a FIFO would be
    waited for, and a device may have no end."""
    _refuse_others(os.stat(path), path)  # not opened: that alone is noticed by some devices
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _refuse_others(os.fstat(descriptor), path)
        return file.read(most)


def kind(mode: int) -> str:
    """Of st_mode, with its article."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")


def no_file(mode: int, path: Path) -> OSError:
    return OSError(errno.EINVAL, f"it is {kind(mode)}, and a file is expected", str(path))


def _refuse_others(about: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise no_file(about.st_mode, path)


def read_text(path: Path) -> str:
    """UTF-8. Raises OSError and UnicodeDecodeError."""
    return read_bytes(path).decode("utf-8")


def read_json(path: Path, most: int = -1) -> Any:
    """Raises OSError, and ValueError for what is no JSON, or nested deeper than Python reads."""
    try:
        return json.loads(read_bytes(path, most))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_text(path: Path, text: str) -> None:
    """As a whole: whoever reads finds what was there or what is now, after a power loss, too. Only the owner
    may read it. Raises OSError; then what was there still is."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()  # what another process of this number left when it was killed
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # before the name: a power loss must not leave an empty file
        os.replace(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()  # half a file would take the room that is missing
        raise
