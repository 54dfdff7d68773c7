"""Files that outlive a process: read so that nothing that lies there can hold the reader up, and written in
one step. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path


def read_bytes(path: Path, most: int = -1) -> bytes:
    """At most `most` bytes. Raises OSError for all but a regular file: a FIFO would be waited for, and a
    device may have no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most)


def read_text(path: Path) -> str:
    """UTF-8. Raises OSError and UnicodeDecodeError."""
    return read_bytes(path).decode("utf-8")


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
