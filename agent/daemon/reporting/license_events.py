"""Words what there is to tell of a license as an event of type license."""

from __future__ import annotations

from typing import Any

from agent.daemon.reporting.license_subjects import Subject
from agent.daemon.reporting.license_watch import Changed, News, Noticed, Withdrawn
from agent.export.events import Event
from agent.export.license_text import license_line, revocations_line
from agent.export.licenses import License, Revocations
from agent.license.clock import Moment
from agent.license.report import State
from agent.license.times import Edge, Notice
from agent.model import show_time, show_utc
from agent.policy.validity import Term, Validity
from agent.wording import counted

WITHDRAWN = "withdrawn"
"""The `state` of a license that is gone."""
_OF_A_NAME = ("license", "serial", "issuer", "kind")


def license_event(news: News, moment: Moment) -> Event:
    """The fields of the event. A name that nobody signed is in the message only."""
    match news:
        case Noticed(one, notice):
            about = {"notice": {"of": notice.edge.value, "days": notice.days}}
            return {**_license(one), **about, "message": f"{_line(one, moment)}; {_notice(notice)}"}
        case Withdrawn(key, before):
            return _withdrawn(key, before)
        case Changed(subject, before):
            previous = {"previous": before["state"]} if "state" in before else {}
            return {**previous, **_changed(subject, moment)}


def _changed(subject: Subject, moment: Moment) -> Event:
    one = subject.item
    if isinstance(one, Revocations):
        named = {"issuer": one.issuer, "serial": one.serial} if one.verified else {}
        about = {"state": one.state.value, "in_force": one.in_force, "is_overdue": one.is_overdue}
        message = revocations_line(one.fields(), moment.license)
        return {**named, "file": one.file, "verified": one.verified, **about, "message": message}
    if subject.term is not None:
        return _entitlement(subject.term, one, Validity(subject.state.value))
    term = next((term for term in one.terms if not term.entitlement), None)
    if not one.signed and term is not None:
        return {**_license(one), "message": term.said(Validity(one.state.value))}
    return {**_license(one), "message": _line(one, moment)}


def _entitlement(term: Term, one: License, validity: Validity) -> Event:
    return {
        **_license(one),
        "entitlement": term.entitlement,
        "state": validity.value,
        **term.fields(validity),
        "rule": str(term.place),
        "message": term.said(validity),
    }


def _license(one: License) -> Event:
    fields: dict[str, Any] = {
        "state": one.state.value,
        "in_force": one.in_force,
        "signed": one.signed,
        "verified": one.verified,
        "rule": one.rule,
        **({"file": one.file, "is_copy": one.is_copy} if one.signed else {}),
        **({"waits_for_file": True} if one.waits_for_file else {}),
        **({"left_out": one.left_out} if one.left_out else {}),
        **({"why": one.why} if one.why else {}),
    }
    if one.is_named:
        expires, ends = one.times.expires_at, one.times.terminates_at
        fields |= {
            "license": one.id,
            **({"serial": one.serial, "issuer": one.issuer, "kind": one.kind} if one.signed else {}),
            "validity": one.validity.value if one.validity else None,
            "expires_at": show_time(expires) if expires else None,
            "terminates_at": show_time(ends) if ends else None,
        }
    return fields


def _withdrawn(key: tuple[str, ...], before: Any) -> Event:
    """`before`: what was told of it."""
    named = {name: before[name] for name in _OF_A_NAME if before.get(name) is not None}
    _, where = key
    fields = {"state": WITHDRAWN, "previous": before.get("state", ""), "in_force": False, **named}
    if "license" in before and "serial" not in before:
        return {**fields, "message": f"license '{where}' is no longer in the policy"}
    what = "its license is withdrawn"
    if "license" in before:
        what = f"license '{before['license']}' (serial {before['serial']}) is withdrawn"
    elif "issuer" in before:
        what = "what its list revokes stays revoked"
    return {**fields, "file": where, "message": f"{where} is gone: {what}"}


def _notice(notice: Notice) -> str:
    """Several notices of one license may come at once: each says which it is."""
    if notice.edge is Edge.GRACE:
        return f"expired {counted(notice.days, 'day')} ago"
    text = f"notice of {counted(notice.days, 'day')} before {notice.edge}"
    # the line itself has the time of the expiry
    return f"{text} ({show_utc(notice.at)})" if notice.edge is Edge.TERMINATION else text


def _line(one: License, moment: Moment) -> str:
    by = moment.later if one.state is State.NOT_YET_VALID else moment.license
    return license_line(one.fields(), by)
