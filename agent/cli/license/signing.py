"""The options of `licet license` that say who signs, and signing with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from agent import given
from agent.cli.license import passphrases
from agent.cli.license.external_signer import external_signer
from agent.cli.license.facts import Facts
from agent.cli.license.writing import READABLE, write_once
from agent.errors import EXIT_NO, LicetError
from agent.license.envelope import read_envelope, write_envelope
from agent.license.keys import kid_of
from agent.license.values import (
    MOST_SIGNATURES,
    Envelope,
    LicenseDocument,
    Malformed,
    Permission,
    PinnedKey,
    RevocationList,
    Signature,
)
from agent.model import show_utc
from agent.policy.document.key_file import read_key

if TYPE_CHECKING:
    from agent.license.signatures import PrivateKey

MOST_KEY_BYTES = 16 << 10

KeyFiles = Annotated[
    list[Path] | None,
    typer.Option("--key", help="Private key in PEM that signs; may be repeated, for several signatures."),
]
PassphraseFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--passphrase-file",
        help="File with the passphrase of each --key, in order, or with that of all; default: ask.",
    ),
]
SignWith = Annotated[
    str,
    typer.Option(
        "--sign-with",
        metavar="COMMAND",
        help="Instead of --key: gets the bytes to sign on stdin, and writes 64 raw bytes.",
    ),
]
PublicKey = Annotated[
    Path | None,
    typer.Option("--public-key", help="YAML of the key that --sign-with signs with, as it is pinned."),
]


class CannotSign(LicetError):
    """A key that may not sign this document: no host would accept it."""

    exit_code = EXIT_NO


class Signer(Protocol):
    """Who signs: a key file, or a command."""

    @property
    def name(self) -> str:
        """What a message calls it."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""

    @property
    def pinned(self) -> PinnedKey | None:
        """The key as it is pinned, if that is known."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes, not verified yet. Raises LicetError."""


@dataclass(frozen=True, slots=True)
class KeyFileSigner:
    """A private key, opened. `name`: the file."""

    name: str
    key: PrivateKey = field(repr=False)
    pinned: PinnedKey | None

    @property
    def public_key(self) -> bytes:
        from agent.license.signatures import public_bytes

        return public_bytes(self.key)

    def sign(self, message: bytes) -> bytes:
        from agent.license.signatures import sign

        return sign(self.key, message)


@dataclass(slots=True)
class _PassphraseFile:
    """Read once, although it may be for several keys: a pipe can be read only once."""

    path: Path
    _found: bytes = field(default=b"", repr=False)

    def read(self) -> bytes:
        self._found = self._found or passphrases.from_file(self.path)
        return self._found


def chosen_signers(
    key_files: Sequence[Path], passphrase_files: Sequence[Path], sign_with: str, public_key: Path | None
) -> list[Signer]:
    """Who signs, by the four options. Raises BadParameter and LicetError."""
    if bool(key_files) == bool(sign_with):
        raise typer.BadParameter("give one of --key and --sign-with", param_hint="--key")
    if sign_with:
        if public_key is None:
            raise typer.BadParameter("--sign-with needs the key's YAML", param_hint="--public-key")
        return [external_signer(sign_with, pinned_key(public_key))]
    if public_key is not None:
        raise typer.BadParameter(
            "only --sign-with needs it: a --key has its public key", param_hint="--public-key"
        )
    files = [_PassphraseFile(file) for file in passphrase_files]
    if len(key_files) > MOST_SIGNATURES:
        raise typer.BadParameter(f"at most {MOST_SIGNATURES} keys can sign a document", param_hint="--key")
    if len(passphrase_files) not in (0, 1, len(key_files)):
        raise typer.BadParameter(
            "give one for all keys, or one for each --key", param_hint="--passphrase-file"
        )
    found = [
        key_file_signer(file, files[at % len(files)] if files else None) for at, file in enumerate(key_files)
    ]
    for at, one in enumerate(found):
        if one.public_key in [other.public_key for other in found[:at]]:
            raise typer.BadParameter(f"{one.name} is given twice", param_hint="--key")
    return list(found)


def key_file_signer(file: Path, passphrase_file: _PassphraseFile | None) -> KeyFileSigner:
    """The key of a file. Asks for its passphrase if it needs one and no file has it. Raises LicetError."""
    from agent.license.signatures import load_private_key, public_bytes

    pem = _private_file(file)
    passphrase = None
    if b"ENCRYPTED" in pem:
        passphrase = passphrase_file.read() if passphrase_file else passphrases.of_key(file)
    try:
        key = load_private_key(pem, passphrase)
    except ValueError as error:
        raise LicetError(f"{file}: {error}") from error
    return KeyFileSigner(str(file), key, _pinned_beside(file, public_bytes(key)))


def pinned_key(file: Path) -> PinnedKey:
    """The key of a YAML file. Raises LicetError, also for a file that has another kind of content."""
    try:
        content = given.read(file, MOST_KEY_BYTES)
    except OSError as error:
        raise LicetError(f"{file}: the key cannot be read: {error.strerror}") from error
    return read_key(content, str(file))


def write_signed(file: Path, signers: Sequence[Signer], payload_type: str, payload: bytes) -> Facts:
    """Write the document signed by each of them, and say so. Raises LicetError."""
    write_once(file, signed(signers, payload_type, payload), READABLE)
    check_signed(file.read_bytes(), signers)
    by = [("signed by", f"{kid_of(one.public_key)} ({one.name})") for one in signers]
    return [*by, ("file", str(file))]


def signed(signers: Sequence[Signer], payload_type: str, payload: bytes) -> bytes:
    """The content of the file, in which every signature holds. Raises LicetError if one does not."""
    message = Envelope(payload_type, payload, ()).message
    signatures = tuple(Signature(kid_of(one.public_key), one.sign(message)) for one in signers)
    try:
        content = write_envelope(Envelope(payload_type, payload, signatures))
    except Malformed as error:
        raise LicetError(str(error)) from error
    check_signed(content, signers)
    return content


def is_signed_by(public_key: bytes, envelope: Envelope) -> bool:
    """True if a signature of the envelope verifies under this key."""
    from agent.license.signatures import verify_one

    kid = kid_of(public_key)
    signatures = sorted(envelope.signatures, key=lambda one: one.keyid != kid)
    return any(verify_one(public_key, envelope.message, one.value) for one in signatures)


def check_signed(content: bytes, signers: Sequence[Signer]) -> None:
    """Raises LicetError unless this file has the signature of each of them."""
    envelope = read_envelope(content)
    for one in signers:
        if not is_signed_by(one.public_key, envelope):
            raise LicetError(
                f"{one.name}: the signature does not verify under key {kid_of(one.public_key)}: it is of "
                "another key, or of a hash of the message; nothing was written"
            )


def refuse_if_not_allowed(signers: Sequence[Signer], document: LicenseDocument | RevocationList) -> None:
    """Raises CannotSign if a key, as it is pinned, may not sign this document."""
    for one in signers:
        if one.pinned and not one.pinned.may_sign(document):
            raise CannotSign(f"{one.name}: {_why_not(one.pinned, document)}; no host would accept it")


def _why_not(key: PinnedKey, document: LicenseDocument | RevocationList) -> str:
    if key.issuer != document.issuer:
        return f"the key is of issuer '{key.issuer}', and the document of '{document.issuer}'"
    needed = Permission.LICENSE if isinstance(document, LicenseDocument) else Permission.REVOKE
    if needed not in key.may:
        return f"the key may not {needed}: its YAML has may: {', '.join(sorted(key.may))}"
    if isinstance(document, LicenseDocument) and document.product not in key.products:
        return f"the key is for {', '.join(key.products)}, and the license for '{document.product}'"
    if key.valid_from and document.issued_at < key.valid_from:
        return f"the key is valid from {show_utc(key.valid_from)}, after issued_at"
    assert key.valid_until
    return f"the key is valid until {show_utc(key.valid_until)}, and issued_at is not before that"


def _private_file(file: Path) -> bytes:
    try:
        about = os.stat(file)
        pem = given.read(file, MOST_KEY_BYTES)
    except OSError as error:
        raise LicetError(f"{file}: the private key cannot be read: {error.strerror}") from error
    if stat.S_ISREG(about.st_mode) and about.st_mode & 0o077 and b"PRIVATE KEY" in pem:
        raise LicetError(
            f"{file}: other users can read this private key: chmod 600 {file}, or make a new one"
        )
    return pem


def _pinned_beside(file: Path, public_key: bytes) -> PinnedKey | None:
    """The YAML that `keygen` wrote beside the private key, if it is still there."""
    try:
        found = pinned_key(file.with_suffix(".yaml"))
    except (LicetError, ValueError):
        return None
    return found if found.public_key == public_key else None
