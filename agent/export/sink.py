"""Where event lines go. A sink never waits: it raises OSError for a line that it cannot write. A stalled
reader or a full disk must not stop the agent."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from typing import Protocol

STDOUT = 1


class Sink(Protocol):
    """Where JSON lines go. write() never waits."""

    def write(self, line: str) -> None:
        """Write one line. Raises BlockingIOError if the reader does not keep up, and another OSError if
        writing fails."""

    def reopen(self) -> None: ...


class NoSink:
    """Writes nothing. Events are stored in memory for `licet events` only."""

    def write(self, line: str) -> None:
        pass

    def reopen(self) -> None:
        pass


class DescriptorSink:
    """Writes lines to an open descriptor (a pipe, a terminal, a file). A line that was begun is completed
    before the next, so a reader never sees half a line. At most that one line is buffered."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # polled, not set to O_NONBLOCK: the flag would be shared with the process that passed us the
        # descriptor
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)
        self._rest = b""

    def write(self, line: str) -> None:
        self._flush()
        data = line.encode() + b"\n"
        self._rest = data
        try:
            self._flush()
        except OSError:
            if self._rest is not data:
                return  # partly written: the next write sends the rest first
            self._rest = b""
            raise

    def _flush(self) -> None:
        while self._rest:
            if not self._room.poll(0):
                raise BlockingIOError(errno.EAGAIN, "the reader does not keep up")
            # a writable pipe has room for at least PIPE_BUF bytes (pipe(7)): this write does not block
            written = os.write(self._fd, self._rest[: select.PIPE_BUF])
            self._rest = self._rest[written:]

    def reopen(self) -> None:
        pass


class FileSink:
    """Appends lines to a file. The file is opened again once it was renamed or removed, as logrotate does."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None
        self._identity = (0, 0)
        self._lines: Sink = NoSink()

    def write(self, line: str) -> None:
        if self._fd is None or self._moved():
            self.reopen()
            self._open()
        self._lines.write(line)

    def _open(self) -> None:
        # O_NONBLOCK: opening a FIFO without a reader fails instead of waiting
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._fd = os.open(self._path, flags, 0o640)
        found = os.fstat(self._fd)
        self._identity = (found.st_dev, found.st_ino)
        self._lines = DescriptorSink(self._fd)

    def _moved(self) -> bool:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def reopen(self) -> None:
        """Close the file. The next line opens it again."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        self._lines = NoSink()
        with contextlib.suppress(OSError):  # a full disk may be reported only here; the line was counted
            os.close(fd)


def open_sink(name: str) -> Sink:
    """The sink for events.sink of the configuration: stdout, none, or a path."""
    if name == "none":
        return NoSink()
    return DescriptorSink(STDOUT) if name == "stdout" else FileSink(name)
