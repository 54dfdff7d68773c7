"""Reads text fields of protobuf messages without a schema (protobuf.dev: encoding)."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Message:
    """The fields of a message that are text, bytes or messages. Raises ValueError if the bytes are not a
    valid message."""

    def __init__(self, raw: bytes) -> None:
        self._fields = list(_fields(raw))

    def text(self, number: int) -> str:
        """The text of a field, or "" if it is missing."""
        return next(
            (value.decode("utf-8", "replace") for found, value in self._fields if found == number), ""
        )

    def message(self, number: int) -> Message:
        """The message in a field; empty if it is missing."""
        return Message(next((value for found, value in self._fields if found == number), b""))

    def strings(self, number: int) -> dict[str, str]:
        """A field of type map<string, string>."""
        entries = [Message(value) for found, value in self._fields if found == number]
        return {entry.text(1): entry.text(2) for entry in entries}


def field(number: int, text: str) -> bytes:
    """The encoding of a text field."""
    raw = text.encode()
    return _varint(number << 3 | _BYTES) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(raw):
        key, at = _read_varint(raw, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _read_varint(raw, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, at = _read_varint(raw, at)
            if at + size > len(raw):
                raise ValueError("a field ends after its message")
            yield key >> 3, raw[at : at + size]
            at += size
        else:
            raise ValueError(f"unknown kind of field {kind}")


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError("a number ends after its message")
        value |= (raw[at] & 0x7F) << shift
        at += 1
        if raw[at - 1] < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
