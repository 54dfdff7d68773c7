"""Asks the child whether signatures hold."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.license import child
from agent.license.child import NoVerdict

__all__ = ["Check", "NoVerdict", "verify"]

_MOST_CHECKS = 4096
_MOST_BYTES = 8 << 20
"""Of messages, for one child: what it is asked takes the host's memory, and its answers are bounded."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question: is `signature` by `public_key`, of `message`?"""

    public_key: bytes
    """32 bytes."""
    message: bytes
    """At most 64 KiB and what the PAE adds."""
    signature: bytes
    """64 bytes."""


def verify(checks: Sequence[Check], timeout_s: float = 30, start: Sequence[str] = ()) -> list[bool]:
    """An answer for each check. Checks of one message should follow each other: it is sent once.
    `start`: another command than the child's own.

    Raises NoVerdict if the child is missing, killed, late or gives other answers."""
    deadline_s = time.monotonic() + timeout_s
    verdicts: list[bool] = []
    for batch in _batches(checks):
        answers = child.run(_jobs(batch), deadline_s - time.monotonic(), start)
        if not all(answer is True or answer is False for answer in answers):
            raise NoVerdict("the verifier gave answers that are neither true nor false")
        verdicts += answers
    return verdicts


def _batches(checks: Sequence[Check]) -> Iterator[list[Check]]:
    batch: list[Check] = []
    size = 0
    for check in checks:
        if batch and (len(batch) == _MOST_CHECKS or size + len(check.message) > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        if not batch or check.message != batch[-1].message:
            size += len(check.message)
        batch.append(check)
    if batch:
        yield batch


def _jobs(checks: Sequence[Check]) -> Iterator[dict[str, str]]:
    before: bytes | None = None
    for check in checks:
        job = {"verify": check.public_key.hex(), "signature": base64.b64encode(check.signature).decode()}
        if check.message != before:
            job["message"] = base64.b64encode(check.message).decode()
            before = check.message
        yield job
