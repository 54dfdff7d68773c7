"""JSON as license documents have it. What another reader could understand differently is refused: a key given
twice, numbers beyond 64 bits, text that is not Unicode (RFC 7493)."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from agent.license.values import MOST_DOCUMENT_BYTES, Malformed
from agent.wording import quoted

MOST_DEPTH = 32
_MOST_WHOLE = (1 << 64) - 1
_MOST_DIGITS = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(content: bytes) -> Any:
    """The value. Raises Malformed."""
    if len(content) > MOST_DOCUMENT_BYTES:
        raise Malformed(f"larger than {MOST_DOCUMENT_BYTES >> 10} KiB", "a license is some kilobytes")
    try:
        # json.loads() of bytes would also accept UTF-16 and UTF-32
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 text, from byte {error.start}", "save it as UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Malformed(f"not JSON: {error.msg} ({where})", "get the file anew from its vendor") from error
    except RecursionError as error:
        raise _too_deep() from error
    check(value)
    return value


def check(value: object, depth: int = 0) -> None:
    """Raises Malformed for what JSON cannot hold, or not in the same way for all readers. `depth`: how many
    levels there are above."""
    if depth > MOST_DEPTH:
        raise _too_deep()
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise Malformed("a key that is not text", "quote it")
            _check_text(key)
            _check_inside(inner, key, depth)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_inside(inner, number, depth)
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Malformed("a number that is not finite", "quote it")
    elif isinstance(value, int):
        if abs(value) > _MOST_WHOLE:
            raise Malformed("a number beyond 64 bits", "quote it")
    elif value is not None:
        raise Malformed("neither text, a number, true, false, null, a list nor keys and values", "quote it")


def _check_inside(value: object, step: str | int, depth: int) -> None:
    try:
        check(value, depth + 1)
    except Malformed as error:
        raise Malformed(error.reason, error.remedy, (step, *error.location)) from error.__cause__


def _check_text(text: str) -> None:
    if _SURROGATE.search(text):
        raise Malformed(f"{quoted(text)} has half of a surrogate pair", "write the whole character")


def _too_deep() -> Malformed:
    return Malformed(f"nested deeper than {MOST_DEPTH} levels", "no document needs more than 8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Malformed(f"key {quoted(key)} is given twice", "keep one of them")
        found[key] = value
    return found


def _whole(text: str) -> int:
    # check the length first: Python refuses to parse a number of thousands of digits
    if len(text.lstrip("-")) > _MOST_DIGITS:
        raise Malformed("a number beyond 64 bits", "quote it")
    return int(text)


def _fraction(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Malformed(f"the number {quoted(text)} is too large", "quote it")
    return value


def _constant(text: str) -> NoReturn:
    raise Malformed(f"{text} is not JSON", "leave it out")
