"""Which signatures verify, asked of a child process and remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

from agent.license.verification import Check, NoVerdict, verify


class Verify(Protocol):
    """What answers questions about signatures: agent.license.verification.verify."""

    def __call__(self, checks: Sequence[Check]) -> list[bool]:
        """Raises NoVerdict."""


class Verifier:
    """Asks about each signature once, as long as it is asked for each time."""

    def __init__(self, verify: Verify = verify) -> None:
        self._verify = verify
        self._known: dict[bytes, bool] = {}
        self.problem = ""
        """Why there is no verdict about some signatures; "" if there is one about each."""

    def verdicts(self, checks: Iterable[Check]) -> list[bool | None]:
        """In order; None: no verdict."""
        wanted = [(_digest(check), check) for check in checks]
        new = {digest: check for digest, check in wanted if digest not in self._known}
        self.problem = ""
        if new:
            try:
                self._known |= dict(zip(new, self._verify(list(new.values())), strict=True))
            except NoVerdict as error:
                self.problem = f"signatures of license documents cannot be verified: {error}"
        found = [self._known.get(digest) for digest, _ in wanted]
        self._known = {digest: self._known[digest] for digest, _ in wanted if digest in self._known}
        return found


def _digest(check: Check) -> bytes:
    parts = (check.public_key, check.signature, check.message)
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
