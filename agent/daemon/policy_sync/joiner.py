"""Compiles the policy of the files together with the license documents in force."""

from __future__ import annotations

from dataclasses import replace

from agent.daemon.licensing.keeper import LicenseKeeper
from agent.errors import PolicyErrors
from agent.license.report import DocumentReport
from agent.model import HostFacts
from agent.policy.document.join import join
from agent.policy.tables.compile import Compiled, compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.values import Finding, Place, Policy

FULL = "the kernel's tables have no room for it"


class Joiner:
    """`base` is the policy of the files, without documents. Not thread-safe."""

    def __init__(self, licenses: LicenseKeeper, *, require_signed: bool) -> None:
        self.licenses = licenses
        self.base: Policy | None = None
        self.left_out: dict[str, str] = {}
        """By file: why a license document that holds is not in force."""
        self._require_signed = require_signed
        self._compiled_from: tuple[DocumentReport, ...] = ()

    @property
    def is_changed(self) -> bool:
        """True if the documents differ from those that were compiled last."""
        return self.base is not None and self._compiled_from != self.licenses.reports

    def compiled(self, base: Policy | None, facts: HostFacts, ids: Ids) -> tuple[Policy | None, Compiled]:
        """The joined policy, and its tables. Raises PolicyErrors if they are too large without any
        document."""
        reports = self.licenses.reports
        if base is None:
            policy, compiled, self.left_out = None, compile_policy(None, facts, ids), {}
        else:
            policy, compiled = self._fitting(base, reports, facts, ids)
        self.base, self._compiled_from = base, reports
        return policy, compiled

    def _fitting(
        self, base: Policy, reports: tuple[DocumentReport, ...], facts: HostFacts, ids: Ids
    ) -> tuple[Policy, Compiled]:
        """With as many documents as fit, in file order."""
        try:
            return self._joined(base, reports, len(reports), facts, ids)
        except PolicyErrors:
            if not reports:
                raise
        least, most = 0, len(reports) - 1
        found = self._joined(base, reports, 0, facts, ids)
        while least < most:
            middle = (least + most + 1) // 2
            try:
                found = self._joined(base, reports, middle, facts, ids)
                least = middle
            except PolicyErrors:
                most = middle - 1
        return found

    def _joined(
        self, base: Policy, reports: tuple[DocumentReport, ...], taken: int, facts: HostFacts, ids: Ids
    ) -> tuple[Policy, Compiled]:
        now = self.licenses.moment.license
        joined = join(base, reports[:taken], now, require_signed=self._require_signed)
        left_out = {one.file: FULL for one in reports[taken:] if one.verified}
        findings = (Finding(Place(file), f"left out: {why}") for file, why in left_out.items())
        warnings = (*joined.policy.warnings, *findings, *self.licenses.findings)
        policy = replace(joined.policy, warnings=warnings)
        compiled = compile_policy(policy, facts, ids)
        self.left_out = {**joined.left_out, **left_out}
        return policy, compiled
