# ruff: noqa: E501
"""Tables of mistakes in documents, one a line: what is written, and the message."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any

from agent.license.values import MOST_SERIAL
from tests.unit.license.documents import HK, MI, entitlement_raw, license_raw, revocations_raw

NEEDED = {"id", "serial", "issuer", "licensee", "product", "kind", "issued_at", "entitlements"}


def seats(value: object) -> dict[str, Any]:
    return license_raw() | {"seats": value}


def more(**fields: object) -> dict[str, Any]:
    return license_raw() | fields


def entitlements(*raw: dict[str, Any]) -> dict[str, Any]:
    return license_raw(entitlements=list(raw))


APP: dict[str, Any] = {"id": "app", "principals": ["billing"]}
LOCK: dict[str, Any] = {"any_of": [MI, HK]}

MALFORMED: dict[str, tuple[Any, str]] = {
    "a list": ([], "expected keys and values, found a list"),
    "null": (None, "expected keys and values, found nothing"),
    "an unknown key": (more(licencee="x"), "unknown key 'licencee' (did you mean 'licensee'?)"),
    "a key in capitals": (more(Serial=3), "unknown key 'Serial' (did you mean 'serial'?)"),
    "a key that steers the terminal": (more(**{"\x1b[2J": 1}), r"unknown key '\x1b[2J' (its keys are id, "),
    "a long key": (more(**{"x" * 5000: 1}), f"unknown key '{'x' * 60}…' (its keys"),
    "no id": (more(id=None), "id: expected a name, found nothing"),
    "an id that is a number": (more(id=7), "id: expected a name, found the number 7 (quote it)"),
    "an empty id": (more(id=""), "id: an empty text is not a valid name"),
    "an id with a slash": (more(id="../x"), "id: '../x' is not a valid name (use letters, digits"),
    "an id with a line break": (more(id="acme\n"), r"id: 'acme\n' is not a valid name"),
    "an id in other letters": (more(id="аcme"), "id: 'аcme' is not a valid name"),
    "a long id": (more(id="a" * 64), "is not a valid name"),
    "serial 0": (more(serial=0), f"serial: the number 0 is outside 1 to {MOST_SERIAL}"),
    "a negative serial": (more(serial=-1), "serial: the number -1 is outside"),
    "a serial beyond 2^53": (more(serial=1 << 53), f"serial: the number {1 << 53} is outside 1 to"),
    "a serial that is a truth": (more(serial=True), "serial: expected a whole number, found true"),
    "a serial that is a fraction": (more(serial=3.0), "serial: expected a whole number, found the number 3.0"),
    "a serial that is text": (more(serial="3"), "serial: expected a whole number, found '3'"),
    "a serial that is null": (more(serial=None), "serial: expected a whole number, found nothing"),
    "supersedes itself": (
        more(supersedes=["acme-2025", "acme-2026"]),
        "supersedes: 'acme-2026' is the license itself (remove it: a higher serial supersedes a lower one)",
    ),
    "supersedes one twice": (more(supersedes=["a", "a"]), "supersedes[1]: 'a' is listed twice (remove one)"),
    "supersedes nothing": (more(supersedes=[]), "supersedes: an empty list (remove the key, or list"),
    "supersedes no list": (more(supersedes="a"), "supersedes: expected a list, found 'a'"),
    "supersedes no name": (more(supersedes=["a", "b c"]), "supersedes[1]: 'b c' is not a valid name"),
    "supersedes too many": (more(supersedes=[f"a{one}" for one in range(257)]), "supersedes: 257 values, and 256"),
    "an empty issuer": (more(issuer=""), "issuer: expected text, found an empty text"),
    "an issuer of blanks": (more(issuer=" \u3000"), "issuer: expected text, found ' \\u3000'"),
    "an issuer that is a number": (more(issuer=3), "issuer: expected text, found the number 3 (quote it)"),
    "a long issuer": (more(issuer="x" * 257), "issuer: 257 characters, and 256 are the most (shorten it)"),
    "an issuer that turns the direction": (more(issuer="Ac\u202eme"), r"'Ac\u202eme' has the character U+202E"),
    "an issuer with an isolate": (more(issuer="Ac\u2066me"), "has the character U+2066 (remove it)"),
    "an issuer with a mark": (more(issuer="Ac\u200fme"), "has the character U+200F"),
    "an issuer with an invisible blank": (more(issuer="Ac\u200bme"), "has the character U+200B"),
    "an issuer with a soft hyphen": (more(issuer="Ac\u00adme"), "has the character U+00AD"),
    "an issuer with a tag": (more(issuer="Acme\U000e0041"), "has the character U+E0041"),
    "a licensee with a line break": (more(licensee="a\nb"), r"licensee: 'a\nb' has the character U+000A"),
    "a licensee with a line separator": (more(licensee="a\u2028b"), "licensee: 'a\\u2028b' has the character U+2028"),
    "a licensee with a paragraph separator": (more(licensee="a\u2029b"), "has the character U+2029"),
    "a licensee with an escape": (more(licensee="\x1b]0;x\x07"), "has the character U+001B"),
    "a licensee with a C1 control": (more(licensee="a\x9b2J"), "has the character U+009B"),
    "a licensee with a next line": (more(licensee="a\x85b"), "has the character U+0085"),
    "a licensee with a delete": (more(licensee="a\x7fb"), "has the character U+007F"),
    "a licensee of private characters": (more(licensee="\ue000"), "has the character U+E000"),
    "a licensee with a character that never will be": (more(licensee="a\ufffe"), "has the character U+FFFE"),
    "a licensee with another": (more(licensee="a\U0010ffff"), "has the character U+10FFFF"),
    "a licensee with a character for programs": (more(licensee="a\ufdd0"), "has the character U+FDD0"),
    "a product with a blank": (more(product="acme orders"), "product: 'acme orders' is not a valid name"),
    "an unknown kind": (more(kind="trial"), "kind: 'trial' is not one of production, evaluation, development"),
    "a kind in capitals": (more(kind="Production"), "kind: 'Production' is not one of"),
    "a kind that is a list": (more(kind=["production"]), "kind: a list is not one of"),
    "an evaluation without an end": (
        license_raw(kind="evaluation", expires_at=None, terminates_at=None),
        "an evaluation without expires_at (add it, or issue with --until DAY)",
    ),
    "ends when it starts": (
        more(starts_at="2027-01-01T00:00:00Z"),
        "expires_at is not after starts_at (such a window never holds",
    ),
    "ends before it was issued": (
        license_raw(issued_at="2028-01-01T00:00:00Z", starts_at=None),
        "expires_at is not after starts_at",
    ),
    "terminates before it expires": (
        more(terminates_at="2026-12-31T23:59:59Z"),
        "terminates_at is before expires_at (grace starts at expires_at and ends at terminates_at; issue sets it with --grace DAYS)",
    ),
    "terminates before it expires, by the offset": (
        more(terminates_at="2027-01-01T00:00:00+00:01"),
        "terminates_at is before expires_at",
    ),
    "terminates without an expiry": (license_raw(expires_at=None), "terminates_at without expires_at"),
    "no notices": (more(notice_days=[]), "notice_days: an empty list"),
    "a notice twice": (more(notice_days=[7, 1, 7]), "notice_days[2]: the number 7 is listed twice"),
    "a notice on day 0": (more(notice_days=[0]), "notice_days[0]: the number 0 is outside 1 to 3650"),
    "a notice after ten years": (more(notice_days=[3651]), "notice_days[0]: the number 3651 is outside"),
    "a notice that is a truth": (more(notice_days=[True]), "notice_days[0]: expected a whole number, found true"),
    "33 notices": (more(notice_days=list(range(1, 34))), "notice_days: 33 values, and 32 are the most"),
    "a node lock that is a list": (more(node_lock=[MI]), "node_lock: expected keys and values, found a list"),
    "a node lock of nothing": (more(node_lock={"any_of": []}), "node_lock.any_of: an empty list"),
    "a node lock without ids": (more(node_lock={"at_least": 1}), "node_lock: lacks 'any_of' (add any_of)"),
    "a node lock with a typing error": (more(node_lock=LOCK | {"at-least": 1}), "did you mean 'at_least'?"),
    "at least none": (more(node_lock=LOCK | {"at_least": 0}), "node_lock.at_least: the number 0 is outside 1 to 2"),
    "at least more than there are": (more(node_lock=LOCK | {"at_least": 3}), "the number 3 is outside 1 to 2"),
    "at least true": (more(node_lock=LOCK | {"at_least": True}), "expected a whole number, found true"),
    "a node id twice": (more(node_lock={"any_of": [MI, MI]}), "node_lock.any_of[1]: 'mi:5f"),
    "a node id of another kind": (more(node_lock={"any_of": ["xx:" + "a" * 64]}), "is not a valid node id (write mi:"),
    "a node id in capitals": (more(node_lock={"any_of": ["mi:" + "A" * 64]}), "is not a valid node id"),
    "a short node id": (more(node_lock={"any_of": ["hk:" + "a" * 63]}), "is not a valid node id"),
    "a node id with a line break": (more(node_lock={"any_of": [MI + "\n"]}), "is not a valid node id"),
    "a node id that is a number": (more(node_lock={"any_of": [7]}), "any_of[0]: the number 7 is not a valid node"),
    "too many node ids": (
        more(node_lock={"any_of": [f"mi:{one:064x}" for one in range(1025)]}),
        "node_lock.any_of: 1,025 values, and 1,024 are the most",
    ),
    "no hosts": (more(hosts=0), "hosts: the number 0 is outside 1 to"),
    "hosts true": (more(hosts=True), "hosts: expected a whole number, found true"),
    "half a host": (more(hosts=0.5), "hosts: expected a whole number, found the number 0.5"),
    "an unknown clock": (more(clock="loose"), "clock: 'loose' is not one of lenient, strict (write lenient or strict)"),
    "an unknown period": (more(period={"every": "week"}), "period.every: 'week' is not one of month, quarter, year"),
    "a period from a time": (
        more(period={"every": "month", "from": "2026-01-01T00:00:00Z"}),
        "period.from: '2026-01-01T00:00:00Z' is not a valid date (write 2026-01-01)",
    ),
    "a period from no day": (more(period={"every": "month", "from": "2026-02-30"}), "'2026-02-30' is not a valid date"),
    "a period from a week": (more(period={"every": "month", "from": "2026-W01-1"}), "is not a valid date"),
    "a period from a short date": (more(period={"every": "month", "from": "20260101"}), "is not a valid date"),
    "a period without every": (more(period={"from": "2026-01-01"}), "period: lacks 'every'"),
    "an empty period": (more(period={}), "period: lacks 'every'"),
    "no entitlements": (more(entitlements=[]), "entitlements: an empty list"),
    "entitlements by name": (more(entitlements={"app": APP}), "entitlements: expected a list, found keys and values"),
    "an entitlement that is text": (more(entitlements=["app"]), "entitlements[0]: expected keys and values, found 'app'"),
    "an entitlement twice": (entitlements(APP, APP), "entitlements[1]: keys and values is listed twice"),
    "an entitlement's id twice": (
        entitlements(APP, APP | {"principals": ["ops"]}),
        "entitlements[1]: entitlement 'app' is listed twice (rename or remove one)",
    ),
    "too many entitlements": (
        entitlements(*(APP | {"id": f"a{one}"} for one in range(257))),
        "entitlements: 257 values, and 256 are the most (make two documents of it)",
    ),
    "an entitlement without an id": (entitlement_raw(id=None), "entitlements[0]: lacks 'id'"),
    "an entitlement without principals": (entitlement_raw(principals=None), "entitlements[0]: lacks 'principals'"),
    "an entitlement of nobody": (entitlement_raw(principals=[]), "entitlements[0].principals: an empty list"),
    "an entitlement of a name": (entitlement_raw(principals="billing"), "principals: expected a list, found 'billing'"),
    "an entitlement of one twice": (entitlement_raw(principals=["a", "a"]), "principals[1]: 'a' is listed twice"),
    "an entitlement of too many": (
        entitlement_raw(principals=[f"a{one}" for one in range(257)]),
        "entitlements[0].principals: 257 values, and 256 are the most",
    ),
    "an entitlement to no class": (entitlement_raw(classes=[]), "entitlements[0].classes: an empty list"),
    "an entitlement to an unknown class": (
        entitlement_raw(classes=["internal", "secret"]),
        "entitlements[0].classes[1]: 'secret' is not one of public, internal, admin",
    ),
    "an entitlement to a class twice": (entitlement_raw(classes=["admin", "admin"]), "'admin' is listed twice"),
    "an entitlement to four classes": (
        entitlement_raw(classes=["public", "internal", "admin", "secret"]),
        "classes[3]: 'secret' is not one of",
    ),
    "an entitlement to no service": (entitlement_raw(services=[]), "entitlements[0].services: an empty list"),
    "an entitlement to no name": (entitlement_raw(services=["a b"]), "services[0]: 'a b' is not a valid name"),
    "an entitlement that never holds": (
        entitlement_raw(starts_at="2026-06-01T00:00:00Z", expires_at="2026-06-01T00:00:00Z"),
        "entitlements[0]: expires_at is not after starts_at",
    ),
    "a grace of one entitlement": (entitlement_raw(terminates_at="2027-06-01T00:00:00Z"), "unknown key 'terminates_at'"),
    "extensions that are a list": (more(extensions=["x"]), "extensions: expected keys and values, found a list"),
    "extensions that are null": (license_raw() | {"extensions": None}, "extensions: expected keys and values, found"),
    "extensions that are too deep": (more(extensions=json.loads('{"a":' * 40 + "1" + "}" * 40)), "nested deeper"),
    "a date in extensions": (more(extensions={"a": [date(2026, 1, 1)]}), "extensions: neither text"),
    "seats": (seats({"max": 5, "count_by": "process"}), "'seats' is not supported by this version yet (remove it)"),
    "seats of a fleet": (seats({"max": 5, "scope": "fleet"}), "'seats.scope' is not supported by this version yet"),
    "seats that are null": (seats(None), "'seats' is not supported by this version yet"),
    "seats of an entitlement": (entitlement_raw(seats={"max": 5}), "entitlements[0]: 'seats' is not supported by"),
    "seats of an entitlement in a fleet": (
        entitlement_raw(seats={"scope": "fleet"}),
        "entitlements[0]: 'seats.scope' is not supported by this version yet",
    ),
    "requires": (entitlement_raw(requires="flexnet"), "entitlements[0]: 'requires' is not supported by this"),
    "requires of a license": (more(requires="flexnet"), "'requires' is not supported by this version yet"),
    "count_by": (entitlement_raw(count_by="process"), "entitlements[0]: 'count_by' is not supported by this"),
    "max": (entitlement_raw(max=5), "entitlements[0]: 'max' is not supported by this version yet"),
}  # fmt: skip
MALFORMED |= {
    f"no {key}": (license_raw(**{key: None}), f"lacks '{key}' (add {key})") for key in sorted(NEEDED)
}

BAD_TIMES: dict[str, tuple[Any, str]] = {
    "naive": (
        "2026-01-01T00:00:00",
        "'2026-01-01T00:00:00' has no offset (write 2027-01-01T00:00:00Z for UTC)",
    ),
    "a day": ("2026-01-01", "time '2026-01-01' has no offset"),
    "a blank": ("2026-01-01 00:00:00Z", "'2026-01-01 00:00:00Z' is not a valid time"),
    "without seconds": ("2026-01-01T00:00Z", "is not a valid time"),
    "without separators": ("20260101T000000Z", "is not a valid time"),
    "by weeks": ("2026-W01-1T00:00:00Z", "is not a valid time"),
    "a comma": ("2026-01-01T00:00:00,5Z", "is not a valid time"),
    "ten digits": ("2026-01-01T00:00:00.0000000001Z", "is not a valid time"),
    "a short offset": ("2026-01-01T00:00:00+01", "is not a valid time"),
    "an offset of seconds": ("2026-01-01T00:00:00+01:00:30", "is not a valid time"),
    "an offset of a day": ("2026-01-01T00:00:00+24:00", "is not a valid time"),
    "an offset of 60 minutes": ("2026-01-01T00:00:00+00:60", "is not a valid time"),
    "hour 24": ("2026-01-01T24:00:00Z", "is not a valid time"),
    "a leap second": ("2016-12-31T23:59:60Z", "is not a valid time"),
    "February 30": ("2026-02-30T00:00:00Z", "is not a valid time: day"),
    "month 13": ("2026-13-01T00:00:00Z", "is not a valid time: month"),
    "before 1970": ("1969-12-31T23:59:59.999999Z", "is outside the years 1970 to 9999 in UTC"),
    "before 1970 in UTC": ("1970-01-01T00:59:59+01:00", "is outside the years 1970 to 9999 in UTC"),
    "year 0": ("0000-01-01T00:00:00Z", "is not a valid time: year"),
    "year 10000": ("10000-01-01T00:00:00Z", "is not a valid time"),
    "before year 1 in UTC": ("0001-01-01T00:00:00+00:01", "is outside the years 1970 to 9999 in UTC"),
    "after year 9999 in UTC": ("9999-12-31T23:59:59-00:01", "is outside the years 1970 to 9999 in UTC"),
    "other digits": ("٢٠٢٦-01-01T00:00:00Z", "is not a valid time"),
    "a line break": ("2026-01-01T00:00:00Z\n", "is not a valid time"),
    "a number": (1767225600, "expected a time with an offset, found the number 1767225600"),
    "nothing": (None, "expected a time with an offset, found nothing"),
    "a list": (["2026-01-01T00:00:00Z"], "expected a time with an offset, found a list"),
    "long": ("2026" * 10_000, "is not a valid time"),
    "a date of YAML": (date(2026, 1, 1), "expected a time with an offset, found the date 2026-01-01"),
    "a naive time of YAML": (datetime(2026, 1, 1, 12), "has no offset (write 2026-01-01T12:00:00Z for UTC)"),
}  # fmt: skip

REVOKED = {
    "nothing at all": (None, "expected keys and values, found nothing"),
    "an unknown key": (
        revocations_raw() | {"license": []},
        "unknown key 'license' (did you mean 'licenses'?)",
    ),
    "no issuer": (revocations_raw(issuer=None), "lacks 'issuer'"),
    "no serial": (revocations_raw(serial=None), "lacks 'serial'"),
    "serial 0": (revocations_raw(serial=0), "serial: the number 0 is outside"),
    "no time of issue": (revocations_raw(issued_at=None), "lacks 'issued_at'"),
    "no next update": (revocations_raw(next_update=None), "lacks 'next_update'"),
    "overdue from the start": (
        revocations_raw(next_update="2026-01-01T00:00:00Z"),
        "next_update is not after issued_at (say when the next list will come)",
    ),
    "a naive next update": (revocations_raw(next_update="2026-02-01T00:00:00"), "next_update: time"),
    "licenses by id": (
        revocations_raw(licenses={"a": "all"}),
        "licenses: expected a list, found keys and values",
    ),
    "licenses that are null": (
        revocations_raw() | {"licenses": None},
        "licenses: expected a list, found nothing",
    ),
    "a license that is text": (
        revocations_raw(licenses=["a"]),
        "licenses[0]: expected keys and values, found 'a'",
    ),
    "a license without serials": (revocations_raw(licenses=[{"id": "a"}]), "licenses[0]: lacks 'serials'"),
    "a license of no serials": (
        revocations_raw(licenses=[{"id": "a", "serials": []}]),
        "serials: an empty list",
    ),
    "serials in words": (
        revocations_raw(licenses=[{"id": "a", "serials": "ALL"}]),
        "licenses[0].serials: 'ALL' is neither a list nor all",
    ),
    "one serial": (
        revocations_raw(licenses=[{"id": "a", "serials": 1}]),
        "the number 1 is neither a list nor all",
    ),
    "a serial of 0": (
        revocations_raw(licenses=[{"id": "a", "serials": [0]}]),
        "serials[0]: the number 0 is outside",
    ),
    "a serial twice": (
        revocations_raw(licenses=[{"id": "a", "serials": [1, 1]}]),
        "serials[1]: the number 1 is",
    ),
    "a serial that is a truth": (revocations_raw(licenses=[{"id": "a", "serials": [True]}]), "found true"),
    "a license twice": (
        revocations_raw(licenses=[{"id": "a", "serials": [1]}, {"id": "a", "serials": "all"}]),
        "licenses[1]: license 'a' is listed twice",
    ),
    "keys that are text": (revocations_raw(keys="ab" * 32), "keys: expected a list"),
    "a short key id": (
        revocations_raw(keys=["ab"]),
        "keys[0]: 'ab' is not a valid key id (a key id is 64 lower-case",
    ),
    "a key id in capitals": (revocations_raw(keys=["AB" * 32]), "is not a valid key id"),
    "a key id twice": (revocations_raw(keys=["ab" * 32] * 2), "keys[1]: "),
    "seats": (revocations_raw() | {"seats": 1}, "unknown key 'seats'"),
}  # fmt: skip
