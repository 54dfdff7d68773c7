"""What another reader of JSON could understand differently is refused."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from agent.license.strict_json import MOST_DEPTH, check, parse
from agent.license.values import MOST_DOCUMENT_BYTES, Malformed

REFUSED = {
    "nothing": (b"", "not JSON"),
    "no end": (b'{"a": 1', "not JSON"),
    "more after the end": (b"{} {}", "not JSON"),
    "a comma too many": (b"[1,]", "not JSON"),
    "a comment": (b"{} // x", "not JSON"),
    "single quotes": (b"{'a': 1}", "not JSON"),
    "a key without quotes": (b"{a: 1}", "not JSON"),
    "a key twice": (b'{"a": 1, "a": 1}', "key 'a' is given twice (keep one of them)"),
    "a key twice, once escaped": (b'{"a": 1, "\\u0061": 1}', "key 'a' is given twice"),
    "a key twice, deep inside": (b'[{"x": [{"a": 1, "b": 2, "a": 3}]}]', "key 'a' is given twice"),
    "an empty key twice": (b'{"": 1, "": 2}', "key '' is given twice"),
    "a key that steers the terminal twice": (
        b'{"\\u001b[2J": 1, "\\u001b[2J": 2}',
        r"key '\x1b[2J' is given twice",
    ),
    "NaN": (b"[NaN]", "NaN is not JSON"),
    "Infinity": (b"Infinity", "Infinity is not JSON"),
    "-Infinity": (b'{"a": -Infinity}', "-Infinity is not JSON"),
    "a fraction that is infinite": (b"1e999", "the number '1e999' is too large"),
    "a long fraction that is infinite": (b"1" * 400 + b".5", "is too large"),
    "a number of 21 digits": (b"1" * 21, "a number beyond 64 bits"),
    "a number of more digits than Python reads": (b"[-" + b"9" * 5000 + b"]", "a number beyond 64 bits"),
    "a number just beyond 64 bits": (b"18446744073709551616", "a number beyond 64 bits"),
    "a number with a zero before it": (b"01", "not JSON"),
    "a number with a plus": (b"+1", "not JSON"),
    "a hexadecimal number": (b"0x10", "not JSON"),
    "a number in other digits": ("\u0664".encode(), "not JSON"),
    "a byte that is not UTF-8": (b'"\xff"', "not UTF-8 text, from byte 1"),
    "UTF-8 that is longer than needed": (b'"\xc0\xaf"', "not UTF-8 text"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "not UTF-8 text"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "not JSON: Unexpected UTF-8 BOM"),
    "UTF-16": ("{}".encode("utf-16"), "not UTF-8 text"),
    "UTF-16 without a mark": ("{}".encode("utf-16-le"), "not JSON"),
    "UTF-32": ("{}".encode("utf-32-le"), "not JSON"),
    "half of a pair": (b'["\\ud83d"]', r"'\ud83d' has half of a surrogate pair"),
    "the other half": (b'["\\ude00x"]', "has half of a surrogate pair"),
    "half of a pair in a key": (b'{"\\ud83d": 1}', "has half of a surrogate pair"),
    "a line break in text": (b'"a\nb"', "not JSON: Invalid control character"),
    "a NUL in text": (b'"a\x00b"', "not JSON: Invalid control character"),
    "a NUL at the end": (b"{}\x00", "not JSON"),
    "a form feed between values": (b"[1,\x0c2]", "not JSON"),
    "a space that is none": ("[\u00a01]".encode(), "not JSON"),
    "an escape that is none": (b'"\\x41"', "not JSON"),
    "too deep": (
        b"[" * (MOST_DEPTH + 2) + b"]" * (MOST_DEPTH + 2),
        f"nested deeper than {MOST_DEPTH} levels",
    ),
    "keys too deep": (b'{"a":' * (MOST_DEPTH + 2) + b"1" + b"}" * (MOST_DEPTH + 2), "nested deeper than"),
    "much too deep": (b"[" * 60_000, "nested deeper than"),
    "keys much too deep": (b'{"a":' * 10_000, "nested deeper than"),
    "too large": (b" " * MOST_DOCUMENT_BYTES + b"1", "larger than 64 KiB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_ambiguous_is_refused(case: str) -> None:
    content, reason = REFUSED[case]
    with pytest.raises(Malformed) as raised:
        parse(content)
    assert reason in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b' {"a": [1, -2, 0.5, true, false, null, "x"]}\r\n\t', {"a": [1, -2, 0.5, True, False, None, "x"]}),
        (b'"\\ud83d\\ude00 \xf0\x9f\x98\x80"', "\U0001f600 \U0001f600"),
        (b'{"a": {"b": 1}, "b": {"a": 1}}', {"a": {"b": 1}, "b": {"a": 1}}),
        (b"[18446744073709551615, -18446744073709551615]", [(1 << 64) - 1, 1 - (1 << 64)]),
        (b"-0", 0),
        (b"1e300", 1e300),
        (b"1e-999", 0.0),
        (b"[" * MOST_DEPTH + b"]" * MOST_DEPTH, None),
    ],
)
def test_what_is_plain_is_read(content: bytes, value: object) -> None:
    assert value is None or parse(content) == value
    parse(content)


@pytest.mark.parametrize(
    ("value", "reason", "location"),
    [
        ({"a": [1, date(2026, 1, 1)]}, "neither text", ("a", 1)),
        ({"a": {"b": 1 << 64}}, "beyond 64 bits", ("a", "b")),
        ([float("nan")], "not finite", (0,)),
        ({"a": {1: 2}}, "a key that is not text", ("a",)),
        ({"a": (1, 2)}, "neither text", ("a",)),
        ({"a": b"x"}, "neither text", ("a",)),
    ],
)
def test_values_of_yaml_that_json_has_not_are_refused_with_their_place(
    value: Any, reason: str, location: tuple[str | int, ...]
) -> None:
    with pytest.raises(Malformed, match=reason) as raised:
        check(value)
    assert raised.value.location == location
