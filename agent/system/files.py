"""Files that outlive a process. No kind of file at a path can block a read, and writes are atomic. Standard
library only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotAFile(OSError):
    """Something else than a regular file is there."""


def read_bytes(path: Path, most: int = -1) -> bytes:
    """Read at most `most` bytes. Raises NotAFile for all but a regular file, with the kind in the message.
    Reading a FIFO would block, and a device may never end."""
    _refuse_others(os.stat(path), path)  # checked before opening: opening alone has effects on some devices
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _refuse_others(os.fstat(descriptor), path)
        return file.read(most)


def kind(mode: int) -> str:
    """The kind of file that st_mode describes, with its article."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")


def no_file(mode: int, path: Path) -> NotAFile:
    return NotAFile(errno.EINVAL, f"it is {kind(mode)}, and a file is expected", str(path))


def _refuse_others(about: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise no_file(about.st_mode, path)


def read_text(path: Path) -> str:
    """Read a UTF-8 file. Raises OSError and UnicodeDecodeError."""
    return read_bytes(path).decode("utf-8")


def read_json(path: Path, most: int = -1) -> Any:
    """Read a JSON file. Raises OSError. Raises ValueError for text that is not valid JSON or nested too
    deeply."""
    try:
        return json.loads(read_bytes(path, most))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader finds the old or the new text as a whole, even after a power loss.
    Only the owner may read the file. Raises OSError; the old file then stays."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()  # left by a killed process that had the same pid
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # before the rename: a power loss must not leave an empty file
        os.replace(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()  # a partial file would take up the space that is missing
        raise


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Make a file with exactly this mode. A reader finds it as a whole or not at all, if the file system has
    files without a name (O_TMPFILE). Raises FileExistsError; after any OSError, no part of it is left."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _linked(folder, path.name, content, mode):
            _written(folder, path.name, content, mode)
        with contextlib.suppress(OSError):  # some file systems cannot
            os.fsync(folder)
    finally:
        os.close(folder)


def _linked(folder: int, name: str, content: bytes, mode: int) -> bool:
    """Write a file without a name, then give it its name. False if the file system cannot."""
    try:
        descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            return False
        raise
    with open(descriptor, "wb") as file:
        _fill(file, content, mode)
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)
    return True


def _written(folder: int, name: str, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            _fill(file, content, mode)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise


def _fill(file: BinaryIO, content: bytes, mode: int) -> None:
    file.write(content)
    file.flush()
    os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())
