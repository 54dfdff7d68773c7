"""The revocation list that a new one continues: nothing that it revokes is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from agent import given
from agent.cli.license.signing import Signer, is_signed_by
from agent.errors import LicetError
from agent.license.envelope import read_envelope
from agent.license.payload import read_document
from agent.license.values import MOST_DOCUMENT_BYTES, Envelope, Malformed, RevocationList

Serials = Mapping[str, frozenset[int] | None]
"""Revoked serials by the id of their license; None: all serials."""
NOTHING_KEPT = (
    "this list replaces the one before it: what only that one revokes is revoked no more; "
    "--from FILE keeps what a list revokes"
)


@dataclass(frozen=True, slots=True)
class EarlierList:
    """A revocation list as the vendor has it: nothing is verified yet."""

    file: Path
    envelope: Envelope
    listed: RevocationList

    @property
    def serials(self) -> Serials:
        return {one.id: one.serials for one in self.listed.licenses}

    def warning(self, signers: Sequence[Signer]) -> str:
        """Why its entries should be looked at; "" if a key that signs the new list has signed it, too."""
        if any(is_signed_by(one.public_key, self.envelope) for one in signers):
            return ""
        return f"{self.file}: none of these keys has signed it: check that every entry is meant"


def read_earlier(file: Path) -> EarlierList:
    """Raises LicetError for anything but a revocation list."""
    try:
        envelope = read_envelope(given.read(file, MOST_DOCUMENT_BYTES + 1))
        listed = read_document(envelope)
    except OSError as error:
        raise LicetError(f"{file}: cannot be read: {error.strerror}") from error
    except Malformed as error:
        raise LicetError(f"{file}: {error}") from error
    if not isinstance(listed, RevocationList):
        raise LicetError(f"{file}: it is a license: name a revocation list")
    return EarlierList(file, envelope, listed)


def merged(one: Serials, other: Serials) -> dict[str, frozenset[int] | None]:
    """What either of the two revokes, in the order in which it is named."""
    found = dict(one)
    for name, serials in other.items():
        before = found.get(name, frozenset())
        found[name] = None if before is None or serials is None else before | serials
    return found


def continued(earlier: EarlierList | None, issuer: str | None, serial: int | None) -> dict[str, Any]:
    """Issuer and serial of the new list. Raises BadParameter if one is missing, or contradicts `earlier`."""
    if earlier is None:
        for value, option in ((issuer, "--issuer"), (serial, "--serial")):
            if value is None:
                raise typer.BadParameter(f"{option} is missing: give it, or an earlier list with --from")
        return {"issuer": issuer, "serial": serial}
    listed = earlier.listed
    if issuer not in (None, listed.issuer):
        reason = f"{earlier.file} is of issuer '{listed.issuer}': leave --issuer out"
        raise typer.BadParameter(reason, param_hint="--issuer")
    if serial is not None and serial <= listed.serial:
        reason = f"{earlier.file} has serial {listed.serial}, and the list that follows it a higher one"
        raise typer.BadParameter(reason, param_hint="--serial")
    return {"issuer": listed.issuer, "serial": listed.serial + 1 if serial is None else serial}
