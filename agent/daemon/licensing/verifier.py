"""Which signatures verify, asked of a child process and remembered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from agent.license.verification import Check, NoVerdict, verify

MOST_AT_ONCE = 1024
LONGEST_S = 10.0
"""After this time no more are begun with: documents that nobody signed may have 100,000 of them."""


class Verify(Protocol):
    """What answers questions about signatures: agent.license.verification.verify."""

    def __call__(self, checks: Sequence[Check]) -> list[bool]:
        """Raises NoVerdict."""


class Verifier:
    """Asks about each signature once, as long as it is asked for each time."""

    def __init__(self, verify: Verify = verify, clock: Callable[[], float] = time.monotonic) -> None:
        self._verify = verify
        self._clock = clock
        self._known: dict[bytes, bool] = {}
        self.problem = ""
        """Why there is no verdict about some signatures; "" if there is one about each."""

    def verdicts(self, checks: Iterable[Check]) -> list[bool | None]:
        """In order; None: no verdict. The first ones are asked about first."""
        wanted = [(_digest(check), check) for check in checks]
        new = {digest: check for digest, check in wanted if digest not in self._known}
        self.problem = ""
        try:
            self._ask(list(new.items()))
        except NoVerdict as error:
            self.problem = f"signatures of license documents cannot be verified: {error}"
        found = [self._known.get(digest) for digest, _ in wanted]
        self._known = {digest: self._known[digest] for digest, _ in wanted if digest in self._known}
        return found

    def _ask(self, new: Sequence[tuple[bytes, Check]]) -> None:
        """Raises NoVerdict. What was answered before that is known."""
        began_s = self._clock()
        for first in range(0, len(new), MOST_AT_ONCE):
            if self._clock() - began_s > LONGEST_S:
                raise NoVerdict(f"{len(new):,} of them take more than {LONGEST_S:.0f} s")
            some = new[first : first + MOST_AT_ONCE]
            verdicts = self._verify([check for _, check in some])
            self._known |= dict(zip((digest for digest, _ in some), verdicts, strict=True))


def _digest(check: Check) -> bytes:
    parts = (check.public_key, check.signature, check.message)
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
