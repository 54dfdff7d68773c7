"""Says a license, or a revocation list, in one line: what it is, what happens next, and when."""

from __future__ import annotations

from datetime import datetime, timedelta

from agent.export.licenses import LicenseFields, LicensesFields, RevocationFields
from agent.model import show_utc
from agent.wording import counted, listed

_UNITS = ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute"))


def license_line(one: LicenseFields, now: datetime) -> str:
    """`acme-2026 serial 3 (Acme, production) valid, expires in 33 days (2027-01-01 00:00 UTC), then 31 days
    of grace`. `now`: the clock by which the next change comes (`clock_of`)."""
    text = f"{_name(one)} {one['state']}{_what_next(one, now)}"
    if one["why"]:
        text += f": {one['why']}"
    if one["left_out"]:
        text += f"; left out: {one['left_out']}"
    elif one["state"] in ("valid", "grace") and not one["in_force"]:
        text += "; not in force: no policy uses it"
    if one["is_copy"]:
        until = "until the document in" if one["waits_for_file"] else "while"
        then = "begins" if one["waits_for_file"] else "does not hold"
        text += f"; it stays in force {until} {one['file']} {then}" if one["in_force"] else "; a copy"
    return text


def license_lines(answer: LicensesFields) -> list[str]:
    """All licenses and revocation lists."""
    by_license_time = datetime.fromisoformat(answer["license_time"])
    later = max(by_license_time, datetime.fromisoformat(answer["wall_time"]))
    return [
        *(
            license_line(one, later if one["state"] == "not_yet_valid" else by_license_time)
            for one in answer["licenses"]
        ),
        *(revocations_line(one, by_license_time) for one in answer["revocations"]),
    ]


def about_unsigned(answer: LicensesFields) -> str:
    """Whether licenses of the policy may grant, and which do; "" where there is no license at all."""
    if answer["require_signed"]:
        return "only signed licenses grant (require_signed)"
    unsigned = [one["id"] for one in answer["licenses"] if not one["signed"] and one["in_force"]]
    if not answer["licenses"]:
        return ""
    if not unsigned:
        return "no license that is not signed is in force; require_signed is off"
    return f"not signed, and in force: {listed(unsigned)}; require_signed is off"


def signers(answer: LicensesFields) -> list[str]:
    """A line for each key that has signed a license, with its whole id: whoever pinned it can compare."""
    signed: dict[tuple[str, str], dict[str, None]] = {}
    for one in answer["licenses"]:
        if one["verified"]:
            signed.setdefault((one["key"], one["issuer"]), {})[one["id"]] = None
    return [f"key {key} of {issuer}: {listed(names)}" for (key, issuer), names in signed.items()]


def revocations_line(one: RevocationFields, now: datetime) -> str:
    """`revocations of Acme, serial 4: 2 licenses, 1 key; next update in 12 days (…)`."""
    head = f"revocations of {one['issuer']}, serial {one['serial']}"
    if not one["verified"]:
        head = f"{one['file']}, not verified, says: {head}"
    counts = ((one["licenses"], "license"), (one["keys"], "key"))
    what = ", ".join(counted(count, name) for count, name in counts if count)
    text = f"{head}: {what or 'nothing is revoked'}"
    if one["state"] != "valid" or not one["in_force"]:
        text += f"; {one['state']}"
    if one["why"]:
        text += f": {one['why']}"
    if one["in_force"]:
        update = datetime.fromisoformat(one["next_update"])
        word = "overdue since" if one["is_overdue"] else "next update"
        text += f"; {word} {_when(update, now)}"
    return text


def _name(one: LicenseFields) -> str:
    if not one["id"]:
        return one["file"]
    if not one["signed"]:
        return f"{one['id']} (not signed, {one['rule']})"
    name = f"{one['id']} serial {one['serial']} ({one['issuer']}, {one['kind']})"
    return name if one["verified"] else f"{one['file']}, not verified, says: {name}"


def _what_next(one: LicenseFields, now: datetime) -> str:
    change, ends = one["next"], one["terminates_at"]
    if one["state"] == "expired" and ends:
        return f", ended {_when(datetime.fromisoformat(ends), now)}"
    if change is None:
        return ", perpetual" if one["state"] == "valid" else ""
    when = _when(datetime.fromisoformat(change["at"]), now)
    match one["state"], change["state"]:
        case "not_yet_valid", _:
            return f", begins {when}"
        case "valid", "grace":
            return f", expires {when}, then {_grace(one)}"
        case "valid", _:
            return f", expires {when}, without grace"
    return f", ends {when}"


def _grace(one: LicenseFields) -> str:
    expires, ends = one["expires_at"], one["terminates_at"]
    if not expires or not ends:
        return "grace without an end"
    return f"{_span(datetime.fromisoformat(ends) - datetime.fromisoformat(expires))} of grace"


def _when(moment: datetime, now: datetime) -> str:
    """`in 33 days (2027-01-01 00:00 UTC)`, or `33 days ago (…)`."""
    at = f"({show_utc(moment)})"
    return f"in {_span(moment - now)} {at}" if moment > now else f"{_span(now - moment)} ago {at}"


def _span(left: timedelta) -> str:
    """In its largest unit. A notice of 30 days that comes half a second late still says 30 days."""
    if left >= timedelta(hours=1):
        left += timedelta(seconds=30)
    for unit, name in _UNITS:
        if left >= unit:
            return counted(left // unit, name)
    return counted(int(left.total_seconds()), "second")
