"""Metrics of licenses. Times are timestamps, never seconds left; what has no end is +Inf. No label has text
that nobody signed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from agent.export.families import Family, gauge
from agent.export.licenses import License, Licenses
from agent.export.sanitize import printable
from agent.license.report import State

MOST_ISSUERS = 100
"""As many have series; those whose lists are overdue come first."""


def licenses(found: Licenses, time_offset_s: float) -> Iterator[Family]:
    """Of all licenses and revocation lists, and of license time."""
    named = found.by_id()
    yield from _of_each(named)
    yield from _of_documents([one for one in named.values() if one.signed], found.renewals())
    documents = gauge(
        "licet_license_documents",
        "Files of paths.licenses by state; those that nobody signed have no other metric.",
    )
    for state in State:
        documents.add({"state": state.value}, found.files.get(state, 0))
    yield documents
    yield _next_updates(found)
    offset = gauge(
        "licet_license_time_offset_seconds",
        "Wall clock minus license time, by which licenses expire; negative: the wall clock was set back.",
    )
    offset.add({}, time_offset_s)
    yield offset


def _of_each(named: dict[str, License]) -> Iterator[Family]:
    expiry = gauge(
        "licet_license_expiry_timestamp_seconds",
        "When the license expires, in Unix time; +Inf: never.",
    )
    termination = gauge(
        "licet_license_termination_timestamp_seconds",
        "When the license ends, grace included, in Unix time; +Inf: never.",
    )
    valid = gauge("licet_license_valid", "1 while the license is in force, grace included.")
    for name, one in named.items():
        labels = {"license": name}
        expiry.add(labels, _unix_s(one.times.expires_at))
        termination.add(labels, _unix_s(one.times.terminates_at))
        valid.add(labels, int(one.in_force))
    yield from (expiry, termination, valid)


def _of_documents(signed: list[License], renewals: Mapping[str, datetime]) -> Iterator[Family]:
    state = gauge("licet_license_state", "1 for the state of a signed license, else 0.")
    serial = gauge("licet_license_serial", "Serial number of the signed license.")
    copy = gauge(
        "licet_license_copy_in_force",
        "1 while a copy of the license is in force, because its file does not hold.",
    )
    renewal = gauge(
        "licet_license_renewal_starts_timestamp_seconds",
        "When a signed document that waits for its start renews the license, in Unix time; +Inf: none waits.",
    )
    for one in signed:
        labels = {"license": one.id}
        for each in State:
            state.add(labels | {"state": each.value}, int(one.state is each))
        serial.add(labels, one.serial or 0)
        copy.add(labels, int(one.is_copy and one.in_force and not one.waits_for_file))
        renewal.add(labels, _unix_s(renewals.get(one.id)))
    yield from (state, serial, copy, renewal)


def _next_updates(found: Licenses) -> Family:
    family = gauge(
        "licet_revocations_next_update_timestamp_seconds",
        "Until when all of the issuer's revocation lists in force are up to date, in Unix time.",
    )
    soonest = sorted(found.next_updates().items(), key=lambda one: (one[1], one[0]))
    times: dict[str, datetime] = {}  # two names may be equal once made printable
    for issuer, at in soonest[:MOST_ISSUERS]:
        times.setdefault(printable(issuer), at)
    for label, at in times.items():
        family.add({"issuer": label}, at.timestamp())
    return family


def _unix_s(at: datetime | None) -> float:
    return float("inf") if at is None else at.timestamp()
