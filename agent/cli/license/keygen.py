"""The command `licet license keygen`."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from agent import given
from agent.cli.license import moments, passphrases
from agent.cli.license.writing import (
    READABLE,
    SECRET,
    out_option,
    place_of,
    plain_name,
    refuse_existing,
    write_once,
)
from agent.cli.output import print_facts
from agent.errors import LicetError
from agent.license.curve import PUBLIC_KEY_BYTES
from agent.license.keys import key_from, key_text, kid_of
from agent.license.values import Malformed, Permission, PinnedKey
from agent.model import show_utc

TO_PIN = "for /etc/licet/keys on each host, after its operator compared the kid with you"
INDENT = 13
BOTH = tuple(Permission)
MOST_PUBLIC_BYTES = 16 << 10
ED25519_DER = bytes.fromhex("302a300506032b6570032100")
"""What stands before the raw key in a SubjectPublicKeyInfo (RFC 8410, section 4)."""


def keygen(
    issuer: Annotated[str, typer.Option("--issuer", help="The vendor's name, as in its documents.")],
    products: Annotated[
        list[str] | None,
        typer.Option("--product", help="A product that the key may license; may be repeated."),
    ] = None,
    may: Annotated[
        list[str] | None,
        typer.Option(
            "--may", metavar="license,revoke", help="What the key may sign; may be repeated; default: both."
        ),
    ] = None,
    valid_from: Annotated[
        datetime | None,
        typer.Option(
            "--valid-from",
            parser=moments.since,
            metavar="DAY",
            help="First day (UTC) on which documents may be issued with it.",
        ),
    ] = None,
    valid_until: Annotated[
        datetime | None,
        typer.Option(
            "--valid-until",
            parser=moments.until,
            metavar="DAY",
            help="Last day (UTC) on which documents may be issued with it.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        out_option("File of the private key, or a folder; default: this folder."),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", help="File with the passphrase of the key; default: ask twice."),
    ] = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Write the private key unencrypted.")
    ] = False,
    of: Annotated[
        Path | None,
        typer.Option(
            "--of", metavar="FILE", help="Make no key: write the YAML of this public key (PEM), as of an HSM."
        ),
    ] = None,
) -> None:
    """Make a vendor's key: a private key with a passphrase, and the YAML that operators pin.

    The vendor's side. Use it on a computer that has no network."""
    if no_passphrase and passphrase_file:
        raise typer.BadParameter("give one of it and --passphrase-file", param_hint="--no-passphrase")
    if of and (no_passphrase or passphrase_file):
        raise typer.BadParameter("no private key is written, so it has no passphrase", param_hint="--of")
    raw = {
        "issuer": issuer,
        "products": products,
        "may": [one.strip() for written in may or BOTH for one in written.split(",")],
        "valid_from": valid_from,
        "valid_until": valid_until,
    }
    raw = {name: value for name, value in raw.items() if value is not None}
    if of:
        _write_public(_pinned(raw, public_key_of(of)), out)
    else:
        _write_both(raw, out, passphrase_file, no_passphrase=no_passphrase)


def _write_public(pinned: PinnedKey, out: Path | None) -> None:
    public = place_of(out, f"{_file_name(pinned)}.yaml")
    refuse_existing(public)
    write_once(public, key_text(pinned).encode(), READABLE)
    print_facts([("kid", pinned.kid), ("public key", f"{public}: {TO_PIN}")], INDENT)
    _warn_if_over(pinned)


def _write_both(
    raw: Mapping[str, object], out: Path | None, passphrase_file: Path | None, *, no_passphrase: bool
) -> None:
    from agent.license.signatures import new_private_key, private_pem, public_bytes

    key = new_private_key()
    pinned = _pinned(raw, public_bytes(key))
    private = place_of(out, f"{_file_name(pinned)}.pem")
    public = private.with_suffix(".yaml")
    if private == public:
        raise typer.BadParameter("the public key gets this name: write FILE.pem", param_hint="--out")
    refuse_existing(private, public)
    if no_passphrase:
        passphrase = None
    else:
        passphrase = passphrases.from_file(passphrase_file) if passphrase_file else passphrases.new()
    write_once(private, private_pem(key, passphrase), SECRET)
    try:
        write_once(public, key_text(pinned).encode(), READABLE)
    except LicetError:
        private.unlink()  # a key that nobody can pin is of no use
        raise
    facts = [
        ("kid", pinned.kid),
        ("private key", f"{private}: keep it offline, with a copy elsewhere"),
        ("public key", f"{public}: {TO_PIN}"),
    ]
    print_facts(facts, INDENT)
    _warn_if_over(pinned)
    if no_passphrase:
        typer.echo(f"licet: warning: {private} has no passphrase: whoever reads it signs as you", err=True)
    if Permission.REVOKE in pinned.may and Permission.LICENSE in pinned.may:
        hint = "make a second key with --may revoke, because no key can revoke itself"
        typer.echo(f"licet: hint: {hint}", err=True)


def _warn_if_over(pinned: PinnedKey) -> None:
    if pinned.valid_until and pinned.valid_until <= datetime.now(UTC):
        over = (
            f"the key was valid until {show_utc(pinned.valid_until)}: nothing new that it signs is accepted"
        )
        typer.echo(f"licet: warning: {over}; give a later --valid-until", err=True)


def public_key_of(file: Path) -> bytes:
    """The 32 bytes of a public key in PEM. Raises LicetError."""
    try:
        content = given.read(file, MOST_PUBLIC_BYTES)
    except OSError as error:
        raise LicetError(f"{file}: the public key cannot be read: {error.strerror}") from error
    found = re.search(rb"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]*)-----END PUBLIC KEY-----", content)
    try:
        der = base64.b64decode(b"".join(found[1].split()), validate=True) if found else b""
    except ValueError:
        der = b""
    if not der.startswith(ED25519_DER) or len(der) != len(ED25519_DER) + PUBLIC_KEY_BYTES:
        remedy = "write it with `openssl pkey -pubout`"
        raise LicetError(f"{file}: it is not a public key of Ed25519 in PEM ({remedy})")
    return der[len(ED25519_DER) :]


def _pinned(raw: Mapping[str, object], public_key: bytes) -> PinnedKey:
    encoded = base64.b64encode(public_key).decode()
    try:
        return key_from({"kid": kid_of(public_key), "public_key": encoded, **raw})
    except Malformed as error:
        options = {"products": "--product", "valid_until": "--valid-until", "public_key": "--of"}
        if not error.location:  # the one field that may be missing
            reason = "name a product that the key may license"
            raise typer.BadParameter(reason, param_hint="--product") from error
        field = str(error.location[0])
        raise typer.BadParameter(str(error), param_hint=options.get(field, f"--{field}")) from error


def _file_name(pinned: PinnedKey) -> str:
    return f"{plain_name(pinned.issuer)}-{pinned.kid[:8]}"
