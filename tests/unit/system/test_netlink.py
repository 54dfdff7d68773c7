from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.system.netlink import Netlink, attributes, messages

DONE, ERROR, ROW = 3, 2, 20
DUMP_INTERRUPTED = 0x10


def message(kind: int, body: bytes, sequence: int = 1, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


class Kernel:
    """Answers each request with the next of the prepared datagrams."""

    def __init__(self, *datagrams: bytes) -> None:
        self.requests = 0
        self._datagrams: Iterator[bytes] = iter(datagrams)

    def send(self, request: bytes) -> None:
        self.requests += 1

    def recv(self, size: int) -> bytes:
        return next(self._datagrams)


def answered_by(kernel: Kernel) -> Netlink:
    netlink = Netlink(0)
    netlink.close()
    netlink._socket = kernel  # type: ignore[assignment]
    return netlink


def test_rows_are_collected_until_done() -> None:
    netlink = answered_by(
        Kernel(
            message(ROW, b"one") + message(ROW, b"two"),
            message(ROW, b"stale", sequence=99) + message(ROW, b"three"),
            message(DONE, struct.pack("=i", 0)),
        )
    )
    assert netlink.dump(ROW, b"") == [b"one", b"two", b"three"]


def test_an_interrupted_dump_is_asked_for_again() -> None:
    kernel = Kernel(
        message(ROW, b"old", flags=DUMP_INTERRUPTED) + message(DONE, bytes(4)),
        message(ROW, b"new", sequence=2) + message(DONE, bytes(4), sequence=2),
    )
    assert answered_by(kernel).dump(ROW, b"") == [b"new"]
    assert kernel.requests == 2


def test_a_dump_that_is_always_interrupted_ends_all_the_same() -> None:
    kernel = Kernel(
        *(message(ROW, b"x", n, DUMP_INTERRUPTED) + message(DONE, bytes(4), n) for n in range(1, 100))
    )
    assert answered_by(kernel).dump(ROW, b"") == [b"x"]
    assert kernel.requests < 20


@pytest.mark.parametrize("kind", [DONE, ERROR])
def test_a_refusal_carries_the_kernels_errno(kind: int) -> None:
    netlink = answered_by(Kernel(message(kind, struct.pack("=i", -errno.ENOENT))))
    with pytest.raises(FileNotFoundError):
        netlink.dump(ROW, b"")


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))), st.binary(max_size=20))
def test_attributes_are_read_as_written(written: list[tuple[int, bytes]], fixed: bytes) -> None:
    fixed += bytes(-len(fixed) % 4)
    body = fixed + b"".join(attribute(kind, value) for kind, value in written)
    assert list(attributes(body, len(fixed))) == written


@given(st.binary(max_size=200))
def test_garbage_neither_fails_nor_hangs(garbage: bytes) -> None:
    list(messages(garbage))
    list(attributes(garbage, 0))
