"""Single fields of license documents and keys. Each function takes a JSON or YAML value, and returns the
value used internally or raises the Mistake."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import TypeVar

from agent.license.values import MOST_CHARACTERS, MOST_SERIAL, Malformed
from agent.model import NAME
from agent.wording import did_you_mean, quoted

Value = TypeVar("Value")
Default = TypeVar("Default")
Choice = TypeVar("Choice", bound=StrEnum)

_NO_TEXT = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode categories that show nothing, break the line or turn its direction. Unassigned characters are
accepted, because a later Unicode assigns them."""
# RFC 3339, section 5.6. datetime.fromisoformat() accepts more.
_INSTANT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]"
    r"((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])(\.[0-9]{1,9})?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HEX256 = re.compile("[0-9a-f]{64}")
_NODE_ID = re.compile("(mi|dm|hk):[0-9a-f]{64}")


class Mistake(Exception):
    """`path` and `location` lead to the mistake, from the value that is read at the moment. A location ends
    with an unknown key; a path never has one."""

    def __init__(
        self, reason: str, remedy: str = "", location: tuple[str | int, ...] = (), path: str = ""
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.location = location
        self.path = path


@contextlib.contextmanager
def malformed() -> Iterator[None]:
    """Turns a Mistake of the enclosed block into Malformed."""
    try:
        yield
    except Mistake as error:
        reason = f"{error.path}: {error.reason}" if error.path else error.reason
        raise Malformed(reason, error.remedy, error.location) from error


@contextlib.contextmanager
def inside(step: str | int) -> Iterator[None]:
    """The enclosed block reads the value of this key or list position."""
    try:
        yield
    except Mistake as error:
        here = f"[{step}]" if isinstance(step, int) else step
        path = f"{here}{'' if error.path.startswith('[') or not error.path else '.'}{error.path}"
        raise Mistake(error.reason, error.remedy, (step, *error.location), path) from error


@dataclass(frozen=True, slots=True)
class Item:
    """Keys and values, all of them known."""

    raw: Mapping[str, object]

    def need(self, key: str, read: Callable[[object], Value]) -> Value:
        if key not in self.raw:
            raise Mistake(f"lacks '{key}'", f"add {key}")
        with inside(key):
            return read(self.raw[key])

    def get(self, key: str, read: Callable[[object], Value], absent: Default) -> Value | Default:
        return self.need(key, read) if key in self.raw else absent


def item(raw: object, keys: Collection[str], later: Collection[str] = ()) -> Item:
    """`later`: keys of later versions, which are refused by name rather than half obeyed."""
    if not isinstance(raw, dict):
        raise Mistake(f"expected keys and values, found {found(raw)}", f"its keys are {', '.join(keys)}")
    for key, value in raw.items():
        if key in later:
            inner = ".scope" if key == "seats" and isinstance(value, dict) and "scope" in value else ""
            raise Mistake(f"'{key}{inner}' is not supported by this version yet", "remove it", (key,))
        if key not in keys:
            remedy = did_you_mean(str(key), keys, f"its keys are {', '.join(keys)}")
            raise Mistake(f"unknown key {quoted(str(key))}", remedy, (key,))
    return Item(raw)


def found(value: object) -> str:
    """A few words for what was written."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number beyond 64 bits"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return quoted(value) if value else "an empty text"
    if isinstance(value, date):
        return f"the date {value}"
    return "a list" if isinstance(value, list) else "keys and values"


def text(value: object) -> str:
    """At most 256 characters that can be shown."""
    if not isinstance(value, str) or not value.strip():
        remedy = "quote it" if isinstance(value, bool | int | float | date) else "write its name"
        raise Mistake(f"expected text, found {found(value)}", remedy)
    if len(value) > MOST_CHARACTERS:
        raise Mistake(f"{len(value):,} characters, and {MOST_CHARACTERS} are the most", "shorten it")
    for character in value:
        if unicodedata.category(character) in _NO_TEXT or _is_never_assigned(character):
            raise Mistake(f"{quoted(value)} has the character U+{ord(character):04X}", "remove it")
    return value


def _is_never_assigned(character: str) -> bool:
    """Noncharacters: the Unicode standard, section 23.7."""
    return ord(character) & 0xFFFE == 0xFFFE or "\ufdd0" <= character <= "\ufdef"


def name(value: object) -> str:
    if not isinstance(value, str):
        raise Mistake(f"expected a name, found {found(value)}", "quote it")
    if not NAME.fullmatch(value):
        raise Mistake(
            f"{found(value)} is not a valid name", "use letters, digits, _ . - and at most 63 of them"
        )
    return value


def whole(least: int, most: int = MOST_SERIAL) -> Callable[[object], int]:
    """A reader of whole numbers from `least` to `most`."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Mistake(f"expected a whole number, found {found(value)}", f"write {least} to {most}")
        if not least <= value <= most:
            raise Mistake(f"{found(value)} is outside {least} to {most}", "correct it")
        return value

    return read


def choice(options: type[Choice]) -> Callable[[object], Choice]:
    """A reader of one of the enum's values."""
    allowed = f"write {' or '.join(options)}" if len(options) == 2 else f"write one of {', '.join(options)}"

    def read(value: object) -> Choice:
        if not isinstance(value, str) or value not in list(options):
            raise Mistake(f"{found(value)} is not one of {', '.join(options)}", allowed)
        return options(value)

    return read


def listed(
    read: Callable[[object], Value], most: int, *, least: int = 1, instead: str = "make two documents of it"
) -> Callable[[object], tuple[Value, ...]]:
    """A reader of lists without repeats. `instead`: the remedy where they have too many values."""

    def read_list(value: object) -> tuple[Value, ...]:
        if not isinstance(value, list):
            raise Mistake(f"expected a list, found {found(value)}", "write a list, also of one")
        if len(value) < least:
            raise Mistake("an empty list", "remove the key, or list at least one value")
        if len(value) > most:
            raise Mistake(f"{len(value):,} values, and {most:,} are the most", instead)
        values: dict[Value, None] = {}
        for number, one in enumerate(value):
            with inside(number):
                chosen = read(one)
                if chosen in values:
                    raise Mistake(f"{found(one)} is listed twice", "remove one")
            values[chosen] = None
        return tuple(values)

    return read_list


def check_ids(ids: Iterable[str], what: str) -> None:
    """Raises Mistake if two entries of the list that is read have the same id."""
    seen: set[str] = set()
    for at, one in enumerate(ids):
        if one in seen:
            raise Mistake(f"{what} '{one}' is listed twice", "rename or remove one", (at, "id"), f"[{at}]")
        seen.add(one)


def instant(value: object) -> datetime:
    """A time with an offset, as UTC."""
    chosen = value
    if isinstance(chosen, str):
        chosen = _parsed(chosen)
    if not isinstance(chosen, datetime):
        raise Mistake(f"expected a time with an offset, found {found(value)}", "write 2027-01-01T00:00:00Z")
    if chosen.utcoffset() is None:
        raise Mistake(f"time {chosen} has no offset", f"write {chosen:%Y-%m-%dT%H:%M:%S}Z for UTC")
    try:
        moment = chosen.astimezone(UTC)
    except OverflowError:
        moment = None
    # whoever counts days back from it stays far from the first year of datetime
    if moment is None or moment < _EPOCH:
        raise Mistake(f"time {chosen} is outside the years 1970 to 9999 in UTC", "leave out what never comes")
    return moment


def _parsed(text: str) -> datetime:
    parts = _INSTANT.fullmatch(text)
    try:
        if parts:
            # fromisoformat() ignores digits of a fraction beyond microseconds
            return datetime.fromisoformat(f"{parts[1]}T{parts[2]}{parts[3] or ''}{parts[4].upper()}")
    except ValueError as error:
        raise Mistake(f"{quoted(text)} is not a valid time: {error}", "write 2027-01-01T00:00:00Z") from error
    with contextlib.suppress(ValueError):
        if datetime.fromisoformat(text).utcoffset() is None:
            raise Mistake(f"time {quoted(text)} has no offset", "write 2027-01-01T00:00:00Z for UTC")
    raise Mistake(f"{found(text)} is not a valid time", "write 2027-01-01T00:00:00Z")


def day(value: object) -> date:
    """A date without a time."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str) and _DAY.fullmatch(value):
        with contextlib.suppress(ValueError):
            return date.fromisoformat(value)
    raise Mistake(f"{found(value)} is not a valid date", "write 2026-01-01")


def key_id(value: object) -> str:
    return _matching(value, _HEX256, "key id", "a key id is 64 lower-case hex digits")


def node_id(value: object) -> str:
    return _matching(value, _NODE_ID, "node id", "write mi:, dm: or hk: and 64 lower-case hex digits")


def _matching(value: object, pattern: re.Pattern[str], what: str, remedy: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Mistake(f"{found(value)} is not a valid {what}", remedy)
    return value
