"""Compiles the policy of the files together with the license documents in force."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from agent.daemon.licensing.keeper import LicenseKeeper, in_tables
from agent.errors import PolicyErrors
from agent.license.report import DocumentReport
from agent.model import HostFacts
from agent.policy.document.inline import giving_way
from agent.policy.document.join import join
from agent.policy.document.room import Tables
from agent.policy.tables.compile import Compiled, compile_policy
from agent.policy.tables.grants import next_end
from agent.policy.tables.ids import Ids
from agent.policy.tables.set_room import SetRoom
from agent.policy.values import License, Policy


class _NoRoom:
    """For a policy that compiles with none of them."""

    def misfit(self, _licenses: Sequence[License]) -> str:
        return "the kernel's tables have no room for it"


@dataclass(frozen=True, slots=True)
class CompiledFrom:
    """What one generation of tables was compiled from."""

    base: Policy | None = None
    """The policy of the files, without documents."""
    reports: tuple[DocumentReport, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    """By file: why a license document that holds is not in the tables."""
    room_at: datetime | None = None
    """When the end of a license may leave room for one that is left out."""

    @property
    def unsigned(self) -> tuple[License, ...]:
        """The licenses that are written in the policy."""
        return self.base.licenses if self.base else ()


class Joiner:
    """Joins what is there at the moment; it remembers nothing."""

    def __init__(self, licenses: LicenseKeeper, *, require_signed: bool) -> None:
        self.licenses = licenses
        self.require_signed = require_signed

    def is_past(self, compiled_from: CompiledFrom) -> bool:
        """True if the tables of a policy no longer follow from the documents, or have room for one more."""
        if compiled_from.base is None:
            return False
        if compiled_from.room_at and self.licenses.moment.license >= compiled_from.room_at:
            return True
        base, before, now = compiled_from.base, compiled_from.reports, self.licenses.reports
        if giving_way(base, before).keys() != giving_way(base, now).keys():
            return True
        return in_tables(before) != in_tables(now)

    def renewed(self, compiled_from: CompiledFrom) -> CompiledFrom:
        """The same, with what is known of the documents now. Only for tables that are not past."""
        reports = self.licenses.reports
        return compiled_from if compiled_from.reports == reports else replace(compiled_from, reports=reports)

    def compiled(
        self, base: Policy | None, facts: HostFacts, ids: Ids
    ) -> tuple[Policy | None, Compiled, CompiledFrom]:
        """The joined policy, its tables, and what they are made from. Raises PolicyErrors if they are too
        large without any document."""
        reports = self.licenses.reports
        if base is None:
            return None, compile_policy(None, facts, ids), CompiledFrom(reports=reports)
        now = self.licenses.moment.license
        policy, compiled, left_out = self._fitting(base, reports, facts, ids, now)
        room_at = next_end(policy.licenses, now) if left_out else None
        return policy, compiled, CompiledFrom(base, reports, left_out, room_at)

    def _fitting(
        self, base: Policy, reports: tuple[DocumentReport, ...], facts: HostFacts, ids: Ids, now: datetime
    ) -> tuple[Policy, Compiled, dict[str, str]]:
        """With every document that fits. Only if they do not fit together, each is tried by itself."""
        room = (None, SetRoom(base, facts, now)) if reports else ()
        for tables in room:
            with contextlib.suppress(PolicyErrors):
                return self._joined(base, reports, facts, ids, now, tables)
        return self._joined(base, reports, facts, ids, now, _NoRoom())

    def _joined(
        self,
        base: Policy,
        reports: tuple[DocumentReport, ...],
        facts: HostFacts,
        ids: Ids,
        now: datetime,
        tables: Tables | None,
    ) -> tuple[Policy, Compiled, dict[str, str]]:
        joined = join(base, reports, now, require_signed=self.require_signed, tables=tables)
        return joined.policy, compile_policy(joined.policy, facts, ids, now), joined.left_out
