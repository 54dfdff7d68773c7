"""Compiles a second source in parallel. Standard library only."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.errors import KernelError
from agent.kernel.loading.program_set import Program, Programs
from agent.kernel.pins import Pins


class Aside:
    """Programs that a child process compiles and loads in parallel, because clang uses one CPU and is not
    thread-safe. The child waits for `maps_are_pinned` before it loads."""

    def __init__(self, compile_: Callable[[], Programs], pins: Pins, programs: Sequence[Program]) -> None:
        self._programs = programs
        self._here, there = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._here.close()
            _load_for(there, compile_, pins, programs)
            os._exit(0)
        there.close()

    def maps_are_pinned(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # the child has failed: result() raises its error
            self._here.sendall(b"!")

    def result(self) -> list[int]:
        """The fds of the programs, in their order. Raises KernelError with the child's message."""
        said, fds, _, _ = socket.recv_fds(self._here, 65536, len(self._programs))
        self.close()
        if not fds:
            raise KernelError(said.decode() or "the compiling child died")
        return list(fds)

    def close(self) -> None:
        """Close the socket and wait for the child to exit; may be called twice."""
        self._here.close()
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0


def _load_for(
    parent: socket.socket, compile_: Callable[[], Programs], pins: Pins, programs: Sequence[Program]
) -> None:
    try:
        made = compile_()
        if not parent.recv(1):
            return  # the parent has failed
        made.take_over_maps(pins)
        with ThreadPoolExecutor(len(programs)) as pool:  # most of the time is spent in the verifier
            fds = list(pool.map(lambda program: made.load(*program), programs))
        socket.send_fds(parent, [b"!"], fds)
    except (KernelError, OSError) as error:
        parent.sendall(str(error).encode())
