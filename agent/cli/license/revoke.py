"""The command `licet license revoke`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli.license import moments
from agent.cli.license.facts import INDENT, revocation_facts
from agent.cli.license.signing import (
    CannotSign,
    KeyFiles,
    PassphraseFiles,
    PublicKey,
    Signer,
    SignWith,
    check_signed,
    chosen_signers,
    refuse_if_not_allowed,
    signed,
)
from agent.cli.license.writing import (
    ANOTHER_SERIAL,
    READABLE,
    place_of,
    plain_name,
    refuse_existing,
    write_once,
)
from agent.cli.output import print_facts
from agent.cli.values import whole
from agent.license.keys import kid_of
from agent.license.payload import revocations_from, revocations_payload
from agent.license.values import MOST_SERIAL, REVOCATIONS_TYPE, Malformed, RevocationList
from agent.wording import whole_number

_OPTIONS = {"licenses": "--license", "keys": "--key-id", "next_update": "--next-update"}


def revoke(
    issuer: Annotated[str, typer.Option("--issuer", help="The vendor's name, as in its documents.")],
    serial: Annotated[
        int,
        typer.Option(
            "--serial",
            parser=whole(1, MOST_SERIAL),
            metavar="N",
            help="Higher than that of the list before: of one key's lists only the newest counts.",
        ),
    ],
    next_update: Annotated[
        datetime,
        typer.Option(
            "--next-update",
            parser=moments.until,
            metavar="DAY",
            help="Last day (UTC) of this list: hosts alert if none followed it until then.",
        ),
    ],
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
        typer.Option("--out", help="The file, or a folder; default: ISSUER-revocations-SERIAL.json here."),
    ] = None,
) -> None:
    """Sign a revocation list. The vendor's side, offline: operators put it beside their licenses.

    A list has everything that is revoked: the next one replaces it. A key is revoked by another key of the
    issuer."""
    raw = {
        "issuer": issuer,
        "serial": serial,
        "issued_at": datetime.now(UTC).replace(microsecond=0),
        "next_update": next_update,
        "licenses": _licenses(licenses or ()),
        "keys": list(key_ids or ()),
    }
    revocations = _checked(raw)
    file = place_of(out, f"{plain_name(issuer)}-revocations-{serial}.json")
    refuse_existing(file, remedy=ANOTHER_SERIAL)
    signers = chosen_signers(key or (), passphrase_file or (), sign_with, public_key)
    refuse_if_not_allowed(signers, revocations)
    _refuse_own_key(signers, revocations)
    content = signed(signers, REVOCATIONS_TYPE, revocations_payload(revocations))
    write_once(file, content, READABLE)
    check_signed(file.read_bytes(), signers)
    facts = revocation_facts(revocations)
    facts += [("signed by", f"{kid_of(one.public_key)} ({one.name})") for one in signers]
    print_facts([*facts, ("file", str(file))], INDENT)


def _checked(raw: Mapping[str, Any]) -> RevocationList:
    try:
        return revocations_from(raw)
    except Malformed as error:
        field = str(error.location[0]) if error.location else ""
        hint = _OPTIONS.get(field, f"--{field}")
        raise typer.BadParameter(str(error), param_hint=hint) from error


def _licenses(given: Sequence[str]) -> list[dict[str, Any]]:
    """As the payload has them; what is given for one license several times is merged."""
    found: dict[str, str | list[int]] = {}
    for one in given:
        name, colon, rest = one.partition(":")
        before = found.get(name, [])
        if not colon or isinstance(before, str):
            found[name] = "all"
            continue
        try:
            serials = [whole_number(each.strip(), 1, MOST_SERIAL) for each in rest.split(",")]
        except ValueError as error:
            raise typer.BadParameter(f"{name}: {error}", param_hint="--license") from error
        found[name] = list(dict.fromkeys((*before, *serials)))
    return [{"id": name, "serials": serials} for name, serials in found.items()]


def _refuse_own_key(signers: Sequence[Signer], revocations: RevocationList) -> None:
    """Raises CannotSign if no key signs the list but those that it revokes."""
    if all(kid_of(one.public_key) in revocations.keys for one in signers):
        raise CannotSign("the list revokes the key that signs it: sign it with another key of the issuer")
