"""What is told of: each license, each entitlement with a window of its own, each revocation list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.daemon.licensing.told import Key
from agent.export.licenses import License, Licenses, Revocations
from agent.license.report import State
from agent.policy.validity import Term

POLICY, FILE, COPY, LIST = "policy", "file", "copy", "list"
"""First parts of a key: a license of the policy by id, a file by name, the copy of a file, a revocation list
in force by issuer and key."""
_QUIET = frozenset({State.VALID, State.NOT_YET_VALID})


@dataclass(frozen=True, slots=True)
class Subject:
    """`record`: what makes its state another one, as JSON. Of a file that nobody signed, what the file says
    does not count."""

    key: Key
    item: License | Revocations
    state: State
    record: Mapping[str, Any]
    term: Term | None = None
    """The entitlement of the license; None: the license as a whole."""

    @property
    def is_named(self) -> bool:
        return self.item.is_named

    @property
    def is_told_when_new(self) -> bool:
        """False for what its reader knows: a list is told with its file, and what a policy writes only once
        there is something to do."""
        is_document = self.key[0] in (FILE, COPY) and self.term is None
        return is_document or (self.key[0] != LIST and self.state not in _QUIET)


def subjects(found: Licenses) -> Iterator[Subject]:
    """All of them, each key once."""
    for one in found.listed:
        key = (POLICY, one.id) if not one.signed else (COPY if one.is_copy else FILE, one.file)
        yield Subject(key, one, one.state, _license_record(one))
        for term in one.terms:
            if term.entitlement:
                state = State(term.at(found.moment).value)
                yield Subject((*key, term.entitlement), one, state, {"state": state.value}, term)
    for each in found.revocations:
        if not each.is_kept:
            yield Subject((FILE, each.file), each, each.state, _list_record(each))
        if each.in_force:
            key = (LIST, f"{each.issuer} {each.key}")
            yield Subject(key, each, each.state, {"issuer": each.issuer, "is_overdue": each.is_overdue})


def _license_record(one: License) -> dict[str, Any]:
    record: dict[str, Any] = {"state": one.state.value}
    if one.is_named:
        record |= {"license": one.id, "in_force": one.in_force}
    if one.is_copy:
        record["waits_for_file"] = one.waits_for_file
    if one.verified:
        record |= {"serial": one.serial, "issuer": one.issuer, "kind": one.kind}
    return record


def _list_record(one: Revocations) -> dict[str, Any]:
    record: dict[str, Any] = {"state": one.state.value}
    if one.verified:
        record |= {"issuer": one.issuer, "serial": one.serial, "in_force": one.in_force}
    return record
