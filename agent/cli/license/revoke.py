"""The command `licet license revoke`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli.license import moments
from agent.cli.license.earlier import NOTHING_KEPT, Serials, continued, merged, read_earlier
from agent.cli.license.facts import INDENT, revocation_facts
from agent.cli.license.signing import (
    CannotSign,
    KeyFiles,
    PassphraseFiles,
    PublicKey,
    Signer,
    SignWith,
    chosen_signers,
    refuse_if_not_allowed,
    write_signed,
)
from agent.cli.license.writing import (
    ANOTHER_SERIAL,
    out_option,
    place_of,
    plain_name,
    refuse_existing,
)
from agent.cli.output import print_facts
from agent.cli.values import whole
from agent.license.keys import kid_of
from agent.license.payload import revocations_from, revocations_payload
from agent.license.values import MOST_SERIAL, REVOCATIONS_TYPE, Malformed, RevocationList
from agent.wording import whole_number

_OPTIONS = {"licenses": "--license", "keys": "--key-id", "next_update": "--next-update"}


def revoke(
    next_update: Annotated[
        datetime,
        typer.Option(
            "--next-update",
            parser=moments.until,
            metavar="DAY",
            help="Last day (UTC) of this list: hosts alert if none followed it until then.",
        ),
    ],
    earlier_list: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="An earlier list: what it revokes is kept, and the serial is the next.",
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", help="The vendor's name, as in its documents; default: that of --from."),
    ] = None,
    serial: Annotated[
        int | None,
        typer.Option(
            "--serial",
            parser=whole(1, MOST_SERIAL),
            metavar="N",
            help="Higher than that of the list before: of one key's lists only the newest counts.",
        ),
    ] = None,
    licenses: Annotated[
        list[str] | None,
        typer.Option(
            "--license", metavar="ID[:N,N]", help="A license to revoke, or serials of it; may be repeated."
        ),
    ] = None,
    key_ids: Annotated[
        list[str] | None,
        typer.Option("--key-id", metavar="KID", help="The kid of a key to revoke; may be repeated."),
    ] = None,
    key: KeyFiles = None,
    passphrase_file: PassphraseFiles = None,
    sign_with: SignWith = "",
    public_key: PublicKey = None,
    out: Annotated[
        Path | None,
        out_option("The file, or a folder; default: ISSUER-revocations-SERIAL.json here."),
    ] = None,
) -> None:
    """Sign a revocation list. The vendor's side, offline: operators put it beside their licenses.

    A list has everything that is revoked: the next one replaces it. A key is revoked by another key of the
    issuer."""
    earlier = read_earlier(earlier_list) if earlier_list else None
    serials, keys = _serials(licenses or ()), list(key_ids or ())
    if earlier:
        serials = merged(earlier.serials, serials)
        keys = list(dict.fromkeys((*earlier.listed.keys, *keys)))
    raw = {
        **continued(earlier, issuer, serial),
        "issued_at": datetime.now(UTC).replace(microsecond=0),
        "next_update": next_update,
        "licenses": list(_entries(serials)),
        "keys": keys,
    }
    revocations = _checked(raw)
    file = place_of(out, f"{plain_name(revocations.issuer)}-revocations-{revocations.serial}.json")
    refuse_existing(file, remedy=ANOTHER_SERIAL)
    signers = chosen_signers(key or (), passphrase_file or (), sign_with, public_key)
    refuse_if_not_allowed(signers, revocations)
    _refuse_own_key(signers, revocations)
    made = write_signed(file, signers, REVOCATIONS_TYPE, revocations_payload(revocations))
    print_facts(revocation_facts(revocations) + made, INDENT)
    if earlier and (warning := earlier.warning(signers)):
        typer.echo(f"licet: warning: {warning}", err=True)
    if not earlier and revocations.serial > 1:
        typer.echo(f"licet: hint: {NOTHING_KEPT}", err=True)


def _checked(raw: Mapping[str, Any]) -> RevocationList:
    try:
        return revocations_from(raw)
    except Malformed as error:
        field = str(error.location[0]) if error.location else ""
        hint = _OPTIONS.get(field, f"--{field}")
        raise typer.BadParameter(str(error), param_hint=hint) from error


def _serials(given: Sequence[str]) -> Serials:
    """What is given for one license several times is merged."""
    found: Serials = {}
    for one in given:
        name, colon, rest = one.partition(":")
        try:
            serials = frozenset(whole_number(each.strip(), 1, MOST_SERIAL) for each in rest.split(","))
        except ValueError as error:
            if colon:
                raise typer.BadParameter(f"{name}: {error}", param_hint="--license") from error
            serials = None
        found = merged(found, {name: serials})
    return found


def _entries(revoked: Serials) -> Iterable[dict[str, Any]]:
    """As the payload has them."""
    for name, serials in revoked.items():
        yield {"id": name, "serials": "all" if serials is None else sorted(serials)}


def _refuse_own_key(signers: Sequence[Signer], revocations: RevocationList) -> None:
    """Raises CannotSign if no key signs the list but those that it revokes."""
    if all(kid_of(one.public_key) in revocations.keys for one in signers):
        raise CannotSign("the list revokes the key that signs it: sign it with another key of the issuer")
