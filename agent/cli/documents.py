"""License documents, for the commands that judge by policy files without a running agent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.license.host import STRANGER, Host
from agent.cli.license.remedies import remedy_of
from agent.cli.running import settings_of
from agent.daemon.licensing.keeper import LicenseKeeper
from agent.daemon.policy_sync.joiner import Joiner
from agent.license.report import DocumentReport, State
from agent.license.standing import HOLDS
from agent.license.values import LicenseDocument
from agent.model import HostFacts, show_utc
from agent.policy.tables.compile import Compiled, compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.values import Finding, Place, Policy

Licenses = Annotated[
    Path | None,
    typer.Option("--licenses", help="Folder of license documents; default: paths.licenses, for its policy."),
]
Keys = Annotated[
    Path | None, typer.Option("--keys", help="Folder of the keys that may sign them; default: paths.keys.")
]


@dataclass(frozen=True, slots=True)
class Documents:
    """Which documents count. `asked`: an option names them, so that they count for any policy. `elsewhere`:
    for another host."""

    host: Host
    licenses: Path
    asked: bool
    elsewhere: bool = False

    def compiled(
        self, policy: Policy, facts: HostFacts, files: Sequence[Path], now: datetime
    ) -> tuple[Policy, Compiled, list[Finding]]:
        """The policy with the documents, compiled, and findings about folders, keys and documents that do not
        hold. `files`: the policy files that were given, if any. `now`: the time to judge at where no document
        counts.

        Raises PolicyErrors."""
        if not self._count_for(files):
            return policy, compile_policy(policy, facts, Ids(), now), []
        with self._joiner() as joiner:
            _warn(joiner.licenses.no_verdict)  # the findings have all that is wrong with folders
            joined, compiled, _ = joiner.compiled(policy, facts, Ids())
            assert joined is not None
            return joined, compiled, [*joiner.licenses.findings, *self._findings(joiner.licenses.reports)]

    def joined(self, policy: Policy, facts: HostFacts, files: Sequence[Path]) -> Policy:
        """As `compiled`, the policy alone."""
        if not self._count_for(files):
            return policy
        with self._joiner() as joiner:
            _warn(joiner.licenses.problem)
            joined, _, _ = joiner.compiled(policy, facts, Ids())
            assert joined is not None
            return joined

    def _count_for(self, files: Sequence[Path]) -> bool:
        if self.asked:
            return True
        return not files and not self.elsewhere and self.host.has_documents(self.licenses)

    @contextlib.contextmanager
    def _joiner(self) -> Iterator[Joiner]:
        if not self.host.is_known:
            typer.echo(f"licet: note: {STRANGER}", err=True)
        is_daemons = self.licenses == self.host.paths.licenses
        with self.host.keeper(self.licenses, with_copies=is_daemons) as keeper:
            self._say_when(keeper)
            yield Joiner(keeper, require_signed=self.host.require_signed)

    def _say_when(self, keeper: LicenseKeeper) -> None:
        clock = "the wall clock" if self.elsewhere else self.host.clock_of(keeper.moment)
        if keeper.reports and clock:
            judged = f"license documents are judged at {show_utc(keeper.moment.license)}, by {clock}"
            typer.echo(f"licet: note: {judged}", err=True)

    def _findings(self, reports: Sequence[DocumentReport]) -> Iterator[Finding]:
        for one in reports:
            state = one.standing.state
            told = state is State.EXPIRED or (self.elsewhere and state is State.NODE_MISMATCH)
            if state in HOLDS or one.is_copy or told:
                continue
            why = one.standing.why
            if state is State.NOT_YET_VALID and isinstance(one.document, LicenseDocument):
                if _renews_what_holds(one.document, reports):
                    continue
                why = f"it begins at {show_utc(one.document.starts_at)}, and nothing of it is granted before"
            place = Place(str(self.licenses / one.file))
            yield Finding(place, f"{state}: {why}" if why else str(state), remedy_of(state))


def _warn(problem: str) -> None:
    if problem:
        typer.echo(f"licet: warning: {problem}", err=True)


def _renews_what_holds(renewal: LicenseDocument, reports: Sequence[DocumentReport]) -> bool:
    """True if a license that it renews or supersedes is in force until it begins."""
    return any(
        one.standing.state in HOLDS
        and isinstance(one.document, LicenseDocument)
        and one.document.issuer == renewal.issuer
        and one.document.id in (renewal.id, *renewal.supersedes)
        for one in reports
    )


def documents(
    config: Path | None,
    licenses: Path | None,
    keys: Path | None,
    at: datetime | None = None,
    *,
    elsewhere: bool = False,
) -> Documents:
    """Raises BadParameter for a folder that is not there."""
    for option, folder in (("--licenses", licenses), ("--keys", keys)):
        if folder and not folder.is_dir():
            raise typer.BadParameter(f"{folder}: no such folder", param_hint=option)
    settings = settings_of(config)
    at = datetime.now(UTC) if elsewhere else at
    host = Host(settings.paths, keys or settings.paths.keys, at, require_signed=settings.require_signed)
    asked = licenses is not None or keys is not None
    return Documents(host, licenses or settings.paths.licenses, asked, elsewhere)
