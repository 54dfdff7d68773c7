"""Reads a file that an operator gives on the command line: a regular file, a pipe, or the terminal.
Standard library only."""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path

from agent.system.files import no_file

WRITER_WITHIN_S = 5.0
"""How long a FIFO may have no writer. Once a process has it open for writing, there is no timeout, as with
any pipe."""
_LOOK_S = 0.05
_PIECE = 1 << 20
_NULL = os.makedev(1, 3)


def read(path: Path, most: int) -> bytes:
    """Read at most `most` bytes. Raises OSError, also for a file that may have no end, and for a FIFO
    without a writer."""
    _refuse_others(os.stat(path), path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not _is_harmless(descriptor):
            raise no_file(os.fstat(descriptor).st_mode, path)
        return _pieces(descriptor, path, most)
    finally:
        os.close(descriptor)


def _refuse_others(about: os.stat_result, path: Path) -> None:
    if not (stat.S_ISREG(about.st_mode) or stat.S_ISFIFO(about.st_mode) or stat.S_ISCHR(about.st_mode)):
        raise no_file(about.st_mode, path)


def _is_harmless(device: int) -> bool:
    return os.isatty(device) or os.fstat(device).st_rdev == _NULL


def _pieces(descriptor: int, path: Path, most: int) -> bytes:
    wait = select.poll()
    wait.register(descriptor, select.POLLIN)
    has_writer = not _is_named_fifo(descriptor)
    deadline_s = time.monotonic() + WRITER_WITHIN_S
    found = bytearray()
    while len(found) < most:
        try:
            piece = os.read(descriptor, min(most - len(found), _PIECE))
        except BlockingIOError:
            has_writer = True
            wait.poll()
            continue
        found += piece
        if not piece and has_writer:
            break
        if not piece:
            # a writer that has closed the FIFO again leaves a hang-up
            has_writer = bool(wait.poll(_LOOK_S * 1000))
            if not has_writer and time.monotonic() > deadline_s:
                raise TimeoutError(
                    None, f"it is a FIFO, and no process wrote to it for {WRITER_WITHIN_S:g} s"
                )
        has_writer = has_writer or bool(piece)
    return bytes(found)


def _is_named_fifo(descriptor: int) -> bool:
    """True for a FIFO with a name. A pipe without a name, such as of <(...), has or had a writer."""
    is_fifo = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    return is_fifo and not os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
