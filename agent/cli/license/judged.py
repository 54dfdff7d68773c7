"""Files of documents, revocation lists and requests, with what this host says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent import given
from agent.cli.license.host import Host, folder_of
from agent.errors import LicetError
from agent.license.clock import Moment
from agent.license.envelope import read_envelope
from agent.license.keys import kid_of
from agent.license.report import DocumentReport, Standing, State
from agent.license.request import REQUEST_TYPE, HostRequest, read_request
from agent.license.standing import HOLDS
from agent.license.values import (
    MOST_DOCUMENT_BYTES,
    MOST_DOCUMENTS,
    Envelope,
    LicenseDocument,
    Malformed,
    RevocationList,
)
from agent.license.verification import Check, NoVerdict, verify

Document = LicenseDocument | RevocationList | HostRequest
_CHANGED = "its signature does not verify: the file was changed, or another key signed it"


@dataclass(frozen=True, slots=True)
class Judged:
    file: Path
    envelope: Envelope | None
    document: Document | None
    """None: malformed."""
    standing: Standing
    verified: bool = False
    kid: str = ""
    """The key that verified it."""

    @property
    def holds(self) -> bool:
        return self.standing.state in HOLDS


@dataclass(frozen=True, slots=True)
class Judgement:
    """What this host says of some files, and what it went by."""

    files: tuple[Judged, ...]
    moment: Moment
    by: str
    """The clock that `moment` is of; "" if the time was given."""
    node_ids: tuple[str, ...]
    problems: tuple[str, ...]
    """About the pinned keys, and the verifier."""


def judgement(host: Host, files: Sequence[Path]) -> Judgement:
    """Judge each file as if it were put into the folder of licenses. Raises LicetError for a file that cannot
    be read."""
    if len(files) > MOST_DOCUMENTS:
        raise LicetError(f"{len(files)} files, and a host reads {MOST_DOCUMENTS}: give fewer at a time")
    contents = [_read(file) for file in files]
    names = [f"{number:03}.json" for number in range(len(files))]
    with folder_of(list(zip(names, contents, strict=True))) as folder, host.keeper(folder) as keeper:
        reports = {one.file: one for one in keeper.reports if not one.is_copy}
        problems = [*map(str, keeper.findings), keeper.no_verdict]
        moment, node_ids = keeper.moment, tuple(keeper.node_ids.values())
    judged = (
        _judged(file, content, reports[name])
        for file, content, name in zip(files, contents, names, strict=True)
    )
    return Judgement(
        tuple(judged), moment, host.clock_of(moment), node_ids, tuple(one for one in problems if one)
    )


def _judged(file: Path, content: bytes, report: DocumentReport) -> Judged:
    try:
        envelope = read_envelope(content)
    except Malformed:
        return Judged(file, None, None, report.standing)
    if envelope.payload_type == REQUEST_TYPE:
        return _judged_request(file, envelope)
    return Judged(file, envelope, report.document, report.standing, report.verified, report.kid)


def _judged_request(file: Path, envelope: Envelope) -> Judged:
    """A request is signed by the host's key that is in it: it is whole, and from whoever has that key."""
    try:
        request = read_request(envelope.payload)
    except Malformed as error:
        return Judged(file, envelope, None, Standing(State.MALFORMED, str(error)))
    checks = [Check(request.public_key, envelope.message, one.value) for one in envelope.signatures]
    try:
        is_whole = any(verify(checks))
    except NoVerdict as error:
        return Judged(file, envelope, request, Standing(State.UNVERIFIED, str(error)))
    if not is_whole:
        return Judged(file, envelope, request, Standing(State.BAD_SIGNATURE, _CHANGED))
    return Judged(file, envelope, request, Standing(State.VALID), True, kid_of(request.public_key))


def _read(file: Path) -> bytes:
    try:
        return given.read(file, MOST_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise LicetError(f"{file}: cannot be read: {error.strerror}") from error
