"""The command `licet license issue`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.license import moments
from agent.cli.license.facts import INDENT, license_facts, time_warnings
from agent.cli.license.signing import (
    KeyFiles,
    PassphraseFiles,
    PublicKey,
    SignWith,
    chosen_signers,
    refuse_if_not_allowed,
    write_signed,
)
from agent.cli.license.templates import Given, filled_in, read_template
from agent.cli.license.writing import ANOTHER_SERIAL, out_option, place_of, refuse_existing
from agent.cli.output import print_facts
from agent.cli.values import whole
from agent.license.fields import Mistake, instant
from agent.license.payload import license_payload
from agent.license.values import LICENSE_TYPE, MOST_SERIAL, LicenseDocument
from agent.model import show_time
from agent.policy.document.yamltext import Text

MOST_GRACE_DAYS = 3650
_SETS = {"--until": "expires_at", "--grace": "terminates_at"}


def issue(
    template: Annotated[Path, typer.Argument(help="YAML or JSON with the fields of the license.")],
    key: KeyFiles = None,
    passphrase_file: PassphraseFiles = None,
    sign_with: SignWith = "",
    public_key: PublicKey = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            parser=moments.last_day,
            metavar="DAY",
            help="Last day of the license, in UTC: sets expires_at to the midnight after it.",
        ),
    ] = None,
    grace: Annotated[
        int | None,
        typer.Option(
            "--grace",
            parser=whole(0, MOST_GRACE_DAYS),
            metavar="DAYS",
            help="Days from expires_at to terminates_at.",
        ),
    ] = None,
    serial: Annotated[
        int | None,
        typer.Option(
            "--serial", parser=whole(1, MOST_SERIAL), metavar="N", help="Instead of the template's serial."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        out_option("The file, or a folder; default: ID-SERIAL.json here."),
    ] = None,
) -> None:
    """Sign a license. The vendor's side, offline: the operator puts the file into /etc/licet/licenses.

    issued_at is now, unless the template has it. A mistake is told with file, line and remedy. A document
    that hosts would find malformed, or that the key may not sign, is refused."""
    now = datetime.now(UTC).replace(microsecond=0)
    text = read_template(template)
    document = _document(text, now, until, grace, serial)
    file = place_of(out, f"{document.id}-{document.serial}.json")
    refuse_existing(file, remedy=ANOTHER_SERIAL)
    signers = chosen_signers(key or (), passphrase_file or (), sign_with, public_key)
    refuse_if_not_allowed(signers, document)
    made = write_signed(file, signers, LICENSE_TYPE, license_payload(document))
    print_facts(license_facts(document) + made, INDENT)
    given = {"--until": until is not None, "--grace": grace is not None}
    for note in _replaced(text, document, [option for option, is_given in given.items() if is_given]):
        typer.echo(f"licet: note: {note}", err=True)
    for warning in time_warnings(document, now):
        typer.echo(f"licet: warning: {warning}", err=True)


def _document(
    template: Text, now: datetime, until: datetime | None, grace: int | None, serial: int | None
) -> LicenseDocument:
    instead = {}
    if serial is not None:
        instead["serial"] = Given("--serial", serial)
    if until is not None:
        instead["expires_at"] = Given("--until", until)
    default = {"issued_at": show_time(now)}
    if grace is None:
        return filled_in(template, default, instead)
    if isinstance(template.data, dict):
        kept = {name: value for name, value in template.data.items() if name != "terminates_at"}
        template = replace(template, data=kept)
    expires_at = filled_in(template, default, instead).expires_at
    if expires_at is None:
        raise typer.BadParameter("the license is perpetual: give --until too", param_hint="--grace")
    try:
        instead["terminates_at"] = Given("--grace", expires_at + timedelta(days=grace))
    except OverflowError:
        raise typer.BadParameter("it would end after the year 9999", param_hint="--grace") from None
    return filled_in(template, default, instead)


def _replaced(template: Text, document: LicenseDocument, options: Iterable[str]) -> Iterator[str]:
    """Which times of the template are not those of the document, because an option was given."""
    for option in options:
        field = _SETS[option]
        written = template.data.get(field)
        if written is not None and not _is(written, getattr(document, field)):
            yield f"{template.place((field,))}: {option} replaces {field} of the template"


def _is(written: object, moment: datetime) -> bool:
    try:
        return instant(written) == moment
    except Mistake:
        return False
