"""Revocation lists that are too long. Another document is no remedy: of one key's lists the newest counts."""

from __future__ import annotations

from typing import Any

import pytest

from agent.license.envelope import write_envelope
from agent.license.payload import revocations_from
from agent.license.values import REVOCATIONS_TYPE, Envelope, Malformed

TOO_MANY = 1025


def refused(**more: Any) -> str:
    raw = {
        "issuer": "Acme",
        "serial": 1,
        "issued_at": "2026-01-01T00:00:00Z",
        "next_update": "2026-02-01T00:00:00Z",
        **more,
    }
    with pytest.raises(Malformed) as caught:
        revocations_from(raw)
    return str(caught.value)


@pytest.mark.parametrize(
    ("more", "helps"),
    [
        (
            {"licenses": [{"id": f"l{n}", "serials": "all"} for n in range(TOO_MANY)]},
            "licenses that have ended",
        ),
        ({"licenses": [{"id": "l", "serials": list(range(1, TOO_MANY + 1))}]}, 'write "all"'),
        ({"keys": [f"{n:064x}" for n in range(TOO_MANY)]}, "another key's list"),
    ],
    ids=["licenses", "serials", "keys"],
)
def test_the_remedy_of_a_list_that_is_too_long_helps(more: dict[str, Any], helps: str) -> None:
    told = refused(**more)
    assert "1,025 values, and 1,024 are the most" in told
    assert helps in told
    assert "two documents" not in told


def test_the_remedy_of_a_list_of_too_many_bytes_helps() -> None:
    with pytest.raises(Malformed) as caught:
        write_envelope(Envelope(REVOCATIONS_TYPE, b"x" * 65536, ()))
    assert "another key's list" in str(caught.value)
    assert "two licenses" not in str(caught.value)
