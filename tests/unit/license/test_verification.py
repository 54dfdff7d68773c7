"""The child that verifies: right answers, and no verdict where it fails."""

from __future__ import annotations

from agent.license.host_key import host_key_of, new_host_key, sign_as_host
from agent.license.signatures import new_private_key, public_bytes, sign
from agent.license.verification import Check, verify

IDENTITY = bytes([1, *bytes(31)])


def test_each_check_has_its_answer() -> None:
    key, other = new_private_key(), new_private_key()
    signature = sign(key, b"message")
    assert verify(
        [
            Check(public_bytes(key), b"message", signature),
            Check(public_bytes(other), b"message", signature),
            Check(public_bytes(key), b"massage", signature),
            Check(public_bytes(key), b"message", bytes(64)),
            Check(public_bytes(key), b"message", signature),
        ]
    ) == [True, False, False, False, True]


def test_a_key_with_which_anybody_can_sign_verifies_nothing() -> None:
    assert verify([Check(IDENTITY, b"anything", IDENTITY + bytes(32))]) == [False]


def test_the_host_key_signs() -> None:
    key = new_host_key()
    assert host_key_of(key.private_pem) == key
    signature = sign_as_host(key.private_pem, b"message")
    assert verify([Check(key.public_key, b"message", signature)]) == [True]
