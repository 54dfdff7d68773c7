"""Finds what there is to tell of licenses: each change of a state once, each notice once, also across a
restart of the daemon. The kernel judges by the same times on its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from agent.daemon.licensing.told import Key, ToldStore
from agent.daemon.reporting.allowance import Allowance
from agent.daemon.reporting.license_subjects import COPY, FILE, LIST, Subject, subjects
from agent.export.licenses import License, Licenses
from agent.license.clock import Moment
from agent.license.report import State
from agent.license.times import DAY, Edge, Notice

MOST_AT_ONCE, PER_S = 512, 1.0
"""Files may change with each look, and whoever may write to the folder can make them. What finds no room is
told later, as it is then."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A state that is another one, or new. `before`: what was told before, empty for what is new."""

    subject: Subject
    before: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A license or a revocation list that is gone. `before`: what was told of it."""

    key: Key
    before: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Noticed:
    """A notice about a license in force."""

    one: License
    notice: Notice


News = Changed | Withdrawn | Noticed


class Source(Protocol):
    """Where licenses are read: agent.daemon.reporting.licenses.LicenseReports."""

    @property
    def version(self) -> object:
        """Another object once something but the time may have changed; None before the first policy."""

    @property
    def moment(self) -> Moment:
        """What time it is."""

    def now(self) -> Licenses:
        """All licenses."""


class LicenseWatch:
    """`news` counts as told what it returns; `store` keeps that for the next daemon."""

    def __init__(self, source: Source, kept: ToldStore, allowance: Allowance | None = None) -> None:
        self._source = source
        self._kept = kept
        self._allowance = allowance or Allowance(MOST_AT_ONCE, PER_S)
        self._told = kept.read()
        self._waiting: dict[Key, None] = {}
        """What found no room, in the order in which it came up."""
        self._version: object = None
        self._seen_at: Moment | None = None
        self._quiet_for = timedelta()
        self._is_stored = True

    def news(self) -> tuple[Moment, list[News]]:
        """What is to be told now, with the time. Nothing before the first policy."""
        version, moment = self._source.version, self._source.moment
        if version is None or (version is self._version and not self._waiting and self._is_quiet(moment)):
            return moment, []
        found = self._source.now()
        self._version, self._seen_at = version, found.moment
        self._quiet_for = min(_quiet_for(found), default=DAY)
        self._told.forget(found.by_id())
        return found.moment, list(self._allowed(found.moment, dict(self._wanted(found))))

    def store(self) -> None:
        """Write what was told. It may block."""
        if not self._is_stored:
            self._is_stored = True
            self._kept.write(self._told.to_json())

    def _is_quiet(self, now: Moment) -> bool:
        before = self._seen_at
        if before is None:
            return False
        passed = now.license - before.license, now.later - before.later
        return all(timedelta() <= one < self._quiet_for for one in passed)

    def _allowed(self, moment: Moment, wanted: Mapping[Key, News]) -> Iterator[News]:
        """As many as may be told now: rights first, then names, else in the order in which it came up."""
        self._waiting = dict.fromkeys(key for key in (*self._waiting, *wanted) if key in wanted)
        for key in sorted(self._waiting, key=lambda key: _rank(wanted[key])):
            if not self._allowance.take():
                return
            del self._waiting[key]
            self._remember(key, wanted[key], moment)
            yield wanted[key]

    def _remember(self, key: Key, news: News, moment: Moment) -> None:
        told, self._is_stored = self._told, False
        match news:
            case Noticed(one, notice):
                told.note(one.id, notice)
            case Withdrawn():
                told.states.pop(key, None)
            case Changed(subject):
                told.states[key] = subject.record
                self._remember_grace(subject, moment)

    def _remember_grace(self, subject: Subject, moment: Moment) -> None:
        """On the day on which grace is told as a state, it needs no notice."""
        one = subject.item
        if isinstance(one, License) and subject.term is None and one.in_force:
            for notice in one.times.due((), moment):
                self._told.note(one.id, notice)

    def _wanted(self, found: Licenses) -> Iterator[tuple[Key, News]]:
        present = {one.key: one for one in subjects(found)}
        yield from self._gone(present)
        changed = {key: one for key, one in present.items() if self._is_changed(one)}
        for key, one in changed.items():
            yield key, Changed(one, self._told.states.get(key, {}))
        told_as_state = {id(one.item) for one in changed.values() if one.state is State.GRACE}
        for license_ in found.by_id().values():
            for notice in self._due(license_, found.moment):
                if notice.edge is not Edge.GRACE or id(license_) not in told_as_state:
                    yield ("notice", license_.id, notice.edge.value), Noticed(license_, notice)

    def _is_changed(self, one: Subject) -> bool:
        before = self._told.states.get(one.key)
        if before is None and not one.is_told_when_new:
            self._told.states[one.key] = one.record
            self._is_stored = False
            return False
        return before != one.record

    def _gone(self, present: Collection[Key]) -> Iterator[tuple[Key, News]]:
        """What was told of and is no longer there. A file whose copy stays is not gone, nor the other way
        round."""
        states = self._told.states
        for key in [key for key in states if key not in present]:
            kind, name, *entitlement = key
            other = {FILE: (COPY, name), COPY: (FILE, name)}.get(kind)
            if entitlement or kind == LIST or other in present or (kind == FILE and other in states):
                del states[key]
                self._is_stored = False
            else:
                yield key, Withdrawn(key, states[key])

    def _due(self, one: License, moment: Moment) -> Iterator[Notice]:
        if one.in_force:
            for notice in one.times.due(one.notice_days, moment):
                if notice.is_due_after(self._told.notices.get((one.id, notice.edge)), moment.license):
                    yield notice


def _rank(news: News) -> int:
    """0: of a license that grants, or did; 1: of what a name stands for; 2: the rest. Files that flip hold
    nothing up that ranks before them."""
    match news:
        case Changed(subject, before):
            is_named = subject.is_named
            is_right = subject.item.in_force or (is_named and before.get("in_force"))
        case Withdrawn(_, before):
            is_right, is_named = before.get("in_force"), "issuer" in before or "license" in before
        case Noticed():
            return 0
    return 0 if is_right else 1 if is_named else 2


def _quiet_for(found: Licenses) -> Iterator[timedelta]:
    for one in found.listed:
        yield one.times.quiet_for(one.notice_days, found.moment)
        for term in one.terms:
            yield term.times.quiet_for((), found.moment)
    for each in found.revocations:
        left = each.next_update - found.moment.license
        if left > timedelta():
            yield left
