"""Days and times on the command line of `licet license`, and as its output shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import typer

from agent.model import show_utc

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def last_day(given: object) -> datetime:
    """The end of a day in UTC, that is the next midnight. Raises BadParameter."""
    return _midnight(str(given), 1, "write a day, as 2026-12-31; it means the end of that day in UTC")


def since(given: object) -> datetime:
    """The begin of a day in UTC, or a time with an offset. Raises BadParameter."""
    return _day_or_time(str(given), 0)


def until(given: object) -> datetime:
    """The end of a day in UTC, or a time with an offset. Raises BadParameter."""
    return _day_or_time(str(given), 1)


def _day_or_time(text: str, days_later: int) -> datetime:
    remedy = "write a day, as 2026-12-31, or a time, as 2026-12-31T12:00:00Z"
    if _DAY.fullmatch(text):
        return _midnight(text, days_later, remedy)
    return _parsed(lambda: _with_offset(text), text, remedy)


def _midnight(text: str, days_later: int, remedy: str) -> datetime:
    def read() -> datetime:
        if not _DAY.fullmatch(text):
            raise ValueError
        day = date.fromisoformat(text) + timedelta(days=days_later)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)

    return _parsed(read, text, remedy)


def _with_offset(text: str) -> datetime:
    moment = datetime.fromisoformat(text) if text.isascii() else None
    if moment is None or moment.utcoffset() is None:
        raise ValueError
    return moment.astimezone(UTC)


def _parsed(read: Callable[[], datetime], text: str, remedy: str) -> datetime:
    try:
        return read()
    except OverflowError:
        remedy = "it ends in the year 10000; name an earlier one"
        raise typer.BadParameter(f"{text!r} is not valid: {remedy}") from None
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not valid: {remedy}") from None


def utc_and_local(moment: datetime) -> str:
    """2027-01-01 00:00 UTC (2027-01-01 01:00 CET here), or the first part alone if the zone here is UTC."""
    try:
        local = moment.astimezone()
    except (OverflowError, ValueError):  # year 1 or 9999
        return show_utc(moment)
    if local.utcoffset() == timedelta(0):
        return show_utc(moment)
    return f"{show_utc(moment)} ({local:%Y-%m-%d %H:%M} {local:%Z} here)"
