"""Keys in files, for vendors and hosts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.license.signatures import (
    load_private_key,
    new_private_key,
    private_pem,
    public_bytes,
    sign,
    verify_one,
)

KEY = new_private_key()


@pytest.mark.parametrize("passphrase", [None, b"secret", "пароль 😀".encode(), b"x" * 1000])
def test_a_key_is_written_and_read(passphrase: bytes | None) -> None:
    pem = private_pem(KEY, passphrase)
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY" if passphrase else b"-----BEGIN PRIVATE KEY")
    key = load_private_key(pem, passphrase)
    assert public_bytes(key) == public_bytes(KEY)
    assert verify_one(public_bytes(KEY), b"message", sign(key, b"message"))


def test_openssl_reads_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(private_pem(KEY, b"secret"))
    told = subprocess.run(
        [
            "openssl",
            "pkey",
            "-in",
            tmp_path / "key.pem",
            "-passin",
            "pass:secret",
            "-pubout",
            "-outform",
            "DER",
        ],
        capture_output=True,
        check=True,
    ).stdout
    assert told[-32:] == public_bytes(KEY)


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("pem", "passphrase", "why"),
    [
        (private_pem(KEY, b"secret"), None, "it needs a passphrase"),
        (private_pem(KEY, b"secret"), b"Secret", "wrong passphrase"),
        (private_pem(KEY, b"secret"), b"", "it needs a passphrase"),
        (private_pem(KEY, None), b"secret", "it needs no passphrase"),
        (b"", None, "it is not a private key in PEM"),
        (b"\xff" * 1000, None, "it is not a private key in PEM"),
        (private_pem(KEY, None)[:60], None, "it is not a private key in PEM"),
        (
            KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            None,
            "not a private key",
        ),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), None, "a key of another kind: Ed25519 is expected"),
        (pem_of(rsa.generate_private_key(65537, 2048)), None, "a key of another kind"),
    ],
    ids=[
        "no passphrase",
        "another passphrase",
        "an empty passphrase",
        "a passphrase too many",
        "empty",
        "no text",
        "cut off",
        "a public key",
        "ECDSA",
        "RSA",
    ],
)
def test_what_is_no_key_for_this_has_its_reason(pem: bytes, passphrase: bytes | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load_private_key(pem, passphrase)


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_no_key_is_written_with_a_passphrase_that_protects_nothing(passphrase: bytes) -> None:
    with pytest.raises(ValueError, match="Password"):
        private_pem(KEY, passphrase)
