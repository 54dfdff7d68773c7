"""Asks the child whether signatures hold."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent.license import child
from agent.license.child import NoVerdict

__all__ = ["Check", "NoVerdict", "verify"]

_MOST_CHECKS = 4096
"""For one child: its answers are bounded."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question: is `signature` by `public_key`, of `message`?"""

    public_key: bytes
    """32 bytes."""
    message: bytes
    """At most 64 KiB and what the PAE adds."""
    signature: bytes
    """64 bytes."""


def verify(checks: Sequence[Check], timeout_s: float = 30) -> list[bool]:
    """An answer for each check. Checks of one message should follow each other: it is sent once.

    Raises NoVerdict if the child is missing, killed, late or gives other answers."""
    deadline_s = time.monotonic() + timeout_s
    verdicts: list[bool] = []
    for first in range(0, len(checks), _MOST_CHECKS):
        verdicts += _asked(checks[first : first + _MOST_CHECKS], deadline_s - time.monotonic())
    return verdicts


def _asked(checks: Sequence[Check], timeout_s: float) -> list[bool]:
    verdicts = child.run(_jobs(checks), timeout_s)
    if not all(verdict is True or verdict is False for verdict in verdicts):
        raise NoVerdict("the verifier gave answers that are neither true nor false")
    return verdicts


def _jobs(checks: Sequence[Check]) -> Iterator[dict[str, Any]]:
    before: bytes | None = None
    for check in checks:
        job = {"key": check.public_key.hex(), "signature": base64.b64encode(check.signature).decode()}
        if check.message != before:
            job["message"] = base64.b64encode(check.message).decode()
            before = check.message
        yield {"verify": job}
