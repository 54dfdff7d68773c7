"""A key in an HSM: the command that signs may do anything, and only a signature that verifies is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.license.external_signer import ExternalSigner
from agent.errors import LicetError
from agent.license.envelope import read_envelope
from agent.license.signatures import new_private_key, public_bytes, verify_one
from tests.unit.cli.license.vendor import Ended, Vendor
from tests.unit.license.documents import pinned

OPENSSL = "openssl pkeyutl -sign -rawin -in /dev/stdin -inkey"


@pytest.fixture
def hsm(vendor: Vendor) -> Vendor:
    """A vendor whose key was not made by licet: `hsm` is private, hsm.yaml is to be pinned."""
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "hsm"], check=True)
    subprocess.run(["openssl", "pkey", "-in", "hsm", "-pubout", "-out", "hsm.pub"], check=True)
    acme = ("--issuer", "Acme", "--product", "acme-orders")
    assert vendor.run("keygen", *acme, "--of", "hsm.pub", "--out", "hsm.yaml").code == 0
    return vendor


def issue(vendor: Vendor, command: str) -> Ended:
    return vendor.run("issue", vendor.template(), "--sign-with", command, "--public-key", "hsm.yaml")


def script(vendor: Vendor, text: str) -> str:
    """A command that runs this Python text."""
    (vendor.folder / "signer.py").write_text(text)
    return f"{sys.executable} signer.py"


def test_what_openssl_signs_verifies(hsm: Vendor) -> None:
    made = issue(hsm, f"{OPENSSL} hsm")
    assert (made.code, made.err) == (0, "")
    envelope = read_envelope((hsm.folder / "acme-2026-3.json").read_bytes())
    (signature,) = envelope.signatures
    key = subprocess.run(
        ["openssl", "pkey", "-in", "hsm", "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout[-32:]
    assert verify_one(key, envelope.message, signature.value)


def test_the_command_gets_the_bytes_that_are_signed_and_nothing_else(hsm: Vendor) -> None:
    copy = f"""
import subprocess, sys
message = sys.stdin.buffer.read()
open("message", "wb").write(message)
assert sys.argv[1:] == ["a b", "$HOME;"], sys.argv
sys.stdout.buffer.write(subprocess.run("{OPENSSL} hsm".split(), stdin=open("message", "rb"),
                                       stdout=subprocess.PIPE, check=True).stdout)
"""
    made = issue(hsm, script(hsm, copy) + " 'a b' '$HOME;'")
    assert made.code == 0, made.err
    envelope = read_envelope((hsm.folder / "acme-2026-3.json").read_bytes())
    assert (hsm.folder / "message").read_bytes() == envelope.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os; os.write(1, bytes(63))", " wrote 63 bytes: a signature of 64 raw bytes is expected"),
        ("", " wrote 0 bytes: a signature of 64 raw bytes is expected"),
        ("print('0f' * 64)", " wrote more than 64 bytes: write a raw signature, not hex"),
        ("while True: print('x' * 9999)", " wrote more than 64 bytes"),
        ("import os; os.write(1, bytes(64)); raise SystemExit(1)", " ended with exit code 1"),
        ("raise SystemExit(7)", " ended with exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", " ended with signal 9"),
        ("import os; os.write(1, bytes(64))", "the signature does not verify under key "),
        ("import os; os.write(1, b'\\xff' * 64)", "the signature does not verify under key "),
    ],
)
def test_a_command_that_does_not_sign_is_told_and_nothing_is_written(
    hsm: Vendor, text: str, told: str
) -> None:
    made = issue(hsm, script(hsm, text))
    assert (made.code, made.out) == (1, "")
    assert told in made.err
    assert "nothing was written" in made.err
    assert "acme-2026-3.json" not in hsm.names()


def test_a_signature_by_another_key_is_not_written(hsm: Vendor) -> None:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "other"], check=True)
    made = issue(hsm, f"{OPENSSL} other")
    assert made.code == 1
    assert "openssl: the signature does not verify under key " in made.err
    assert "acme-2026-3.json" not in hsm.names()


def test_a_signature_of_a_hash_is_not_written(hsm: Vendor) -> None:
    hashed = f"""
import hashlib, subprocess, sys
open("hash", "wb").write(hashlib.sha256(sys.stdin.buffer.read()).digest())
sys.stdout.buffer.write(subprocess.run("{OPENSSL} hsm".split(), stdin=open("hash", "rb"),
                                       stdout=subprocess.PIPE, check=True).stdout)
"""
    made = issue(hsm, script(hsm, hashed))
    assert made.code == 1
    assert "or of a hash of the message" in made.err


@pytest.mark.parametrize("before", ["", "exec >&-;", "head -c 64 /dev/zero;"])
def test_a_command_that_hangs_is_ended(before: str) -> None:
    command = ("/bin/sh", "-c", f"{before} exec sleep 60")
    signer = ExternalSigner(command, pinned(new_private_key()), within_s=0.3)
    with pytest.raises(LicetError, match=r"/bin/sh did not end within 0\.3 s; nothing was written"):
        signer.sign(b"message")


def test_no_shell_reads_the_command(hsm: Vendor) -> None:
    made = issue(hsm, "true; touch made > out")
    assert made.code == 1
    assert "--sign-with: true;: No such file or directory; nothing was written" in made.err
    assert not {"made", "out"} & hsm.names()


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("no-such-command-here", 1, "no-such-command-here: No such file or directory"),
        ("./hsm.pub", 1, "./hsm.pub: Permission denied"),
        ("'open", 2, "--sign-with: No closing quotation: quote it as for a shell"),
        ("   ", 2, "--sign-with: it is empty: name a command"),
    ],
)
def test_a_command_that_cannot_be_started_is_told(hsm: Vendor, command: str, code: int, told: str) -> None:
    made = issue(hsm, command)
    assert made.code == code
    assert told in made.err


def test_the_public_key_is_needed_and_is_the_pinned_yaml(hsm: Vendor, tmp_path: Path) -> None:
    made = hsm.run("issue", hsm.template(), "--sign-with", "true")
    assert (made.code, made.err.partition(" (")[0]) == (
        2,
        "licet: --public-key: --sign-with needs the key's YAML",
    )
    for file in ("hsm.pub", "none.yaml"):
        made = hsm.run("issue", hsm.template(), "--sign-with", "true", "--public-key", file)
        assert made.code != 0
        assert file in made.err


def test_what_the_pinned_key_may_not_sign_never_reaches_the_command(hsm: Vendor) -> None:
    made = hsm.run(
        "issue", hsm.template(issuer="Bolt"), "--sign-with", "touch asked", "--public-key", "hsm.yaml"
    )
    assert made.code == 3
    assert "asked" not in hsm.names()


def test_a_signer_has_the_public_key_of_its_yaml() -> None:
    key = new_private_key()
    assert ExternalSigner(("true",), pinned(key)).public_key == public_bytes(key)
