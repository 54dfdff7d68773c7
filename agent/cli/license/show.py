"""The commands `licet license show` and `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli.license import moments
from agent.cli.license.facts import (
    INDENT,
    Facts,
    license_facts,
    license_name,
    request_facts,
    revocation_facts,
    times,
)
from agent.cli.license.host import STRANGER, Host
from agent.cli.license.judged import Document, Judged, Judgement, judgement
from agent.cli.license.remedies import remedy_of
from agent.cli.output import Json, print_facts, print_json
from agent.cli.running import Config, settings_of
from agent.errors import EXIT_FAILED, EXIT_NO
from agent.license import strict_json
from agent.license.clock import Moment
from agent.license.report import State
from agent.license.request import HostRequest
from agent.license.values import Envelope, LicenseDocument, Malformed
from agent.model import show_time, show_utc

Files = Annotated[list[Path], typer.Argument(help="Documents, revocation lists or requests.")]
Keys = Annotated[Path | None, typer.Option("--keys", help="Folder of the pinned keys; default: paths.keys.")]
NOT_VERIFIED = "NOT VERIFIED, anybody may have written what follows"
MOST_SHOWN = 4000


def show(files: Files, config: Config = None, keys: Keys = None, as_json: Json = False) -> None:
    """Show everything in the files, also in those that no pinned key signed: these are marked. Exit code 3
    if a file is malformed."""
    found = _judgement(config, keys, None, files)
    if as_json:
        print_json([_shown_json(one) for one in found.files])
    for number, one in enumerate(() if as_json else found.files):
        if number:
            print()
        print_facts([("file", str(one.file)), *_shown(one, found.moment)], INDENT)
    if any(one.document is None for one in found.files):
        raise typer.Exit(EXIT_NO)


def verify(
    files: Files,
    config: Config = None,
    keys: Keys = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at", parser=moments.since, metavar="TIME", help="A day or time to judge at; default: now."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what this host would make of the files: state, why, and by which key. Exit code 3 if one does not
    hold.

    The daemon's records count: earlier serials, revocations, license time. Only root can read these."""
    found = _judgement(config, keys, at, files)
    if as_json:
        print_json(_verdict_json(found))
    else:
        for one in found.files:
            print_facts(_verdict(one, found.moment), INDENT)
            print()
        judged_at = f"{show_utc(found.moment.license)}{f' by {found.by}' if found.by else ''}"
        what = f"{judged_at}, for a host with {', '.join(found.node_ids) or 'no node id'}"
        print_facts([("judged", what)], INDENT)
    states = {one.standing.state for one in found.files}
    if State.UNVERIFIED in states:
        raise typer.Exit(EXIT_FAILED)
    if not all(one.holds for one in found.files):
        raise typer.Exit(EXIT_NO)


def _judgement(
    config: Path | None, keys: Path | None, at: datetime | None, files: Sequence[Path]
) -> Judgement:
    if keys and not keys.is_dir():
        raise typer.BadParameter(f"{keys}: no such folder", param_hint="--keys")
    paths = settings_of(config).paths
    host = Host(paths, keys or paths.keys, at)
    found = judgement(host, files)
    for problem in found.problems:
        typer.echo(f"licet: warning: {problem}", err=True)
    if not host.is_known:
        typer.echo(f"licet: note: {STRANGER}", err=True)
    return found


def _shown(one: Judged, moment: Moment) -> Facts:
    standing = one.standing
    why = f"{standing.state}: {standing.why}" if standing.why else str(standing.state)
    if isinstance(one.document, HostRequest) and one.verified:
        facts = [("verified", "by the host's key, which is in it")]
    elif one.verified:
        facts = [("verified", f"by key {one.kid}"), ("state", why)]
    else:
        facts = [("", NOT_VERIFIED), ("state", why)]
    facts += _key_ids(one)
    if one.document is not None:
        return facts + _content(one.document, moment)
    return facts + ([("payload", _text(one.envelope))] if one.envelope else [])


def _content(document: Document, moment: Moment) -> Facts:
    if isinstance(document, LicenseDocument):
        return license_facts(document)
    if isinstance(document, HostRequest):
        return request_facts(document)
    return revocation_facts(document, moment.license)


def _text(envelope: Envelope) -> str:
    text = envelope.payload.decode("utf-8", "replace")
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _key_ids(one: Judged) -> Facts:
    """Which keys an unverified document says that it is signed by, in full: a kid is compared as a whole."""
    if one.envelope is None or one.verified:
        return []
    return [("key id", each.keyid or "none") for each in one.envelope.signatures]


def _verdict(one: Judged, moment: Moment) -> Facts:
    document, standing = one.document, one.standing
    facts = [("file", str(one.file)), ("state", str(standing.state)), ("why", standing.why)]
    if not isinstance(document, HostRequest):
        facts.append(("remedy", remedy_of(standing.state)))
    facts += [("key", one.kid), *_key_ids(one)]
    if isinstance(document, LicenseDocument):
        facts += [("license", license_name(document)), *times(document)]
    elif document is not None:
        facts += _content(document, moment)
    return [fact for fact in facts if fact[1]]


def _verdict_json(found: Judgement) -> dict[str, Any]:
    return {
        "ok": all(one.holds for one in found.files),
        "judged_at": show_time(found.moment.license),
        "judged_by": found.by or "--at",
        "node_ids": list(found.node_ids),
        "files": [_judged_json(one) for one in found.files],
    }


def _judged_json(one: Judged) -> dict[str, Any]:
    return {
        "file": str(one.file),
        "type": one.envelope.payload_type if one.envelope else None,
        "ok": one.holds,
        "verified": one.verified,
        "state": one.standing.state.value,
        "why": one.standing.why,
        "key": one.kid,
    }


def _shown_json(one: Judged) -> dict[str, Any]:
    payload: Any = None
    if one.envelope:
        try:
            payload = strict_json.parse(one.envelope.payload)
        except Malformed:
            payload = _text(one.envelope)
    keyids = [each.keyid for each in one.envelope.signatures] if one.envelope else []
    return {**_judged_json(one), "key_ids": keyids, "payload": payload}
