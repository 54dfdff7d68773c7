"""Ed25519 and keys in files: the one importer of cryptography.

The daemon runs it as a child (see `child`). Each line of stdin is a job in JSON, and is answered by a line of
JSON on stdout. A job that cannot be done ends the child with exit code 1, and the reason on stderr.
"""

from __future__ import annotations

import base64
import json
import resource
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.license.curve import is_usable

MOST_LINE_BYTES = 256 << 10
"""Of one job: a message of 64 KiB in base64, and what stands beside it."""
PrivateKey = Ed25519PrivateKey


def verify_one(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True if the signature is of this message, by this key (RFC 8032). False also for a key of small order,
    with which anybody could sign."""
    if not is_usable(public_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def sign(key: PrivateKey, message: bytes) -> bytes:
    """64 bytes."""
    return key.sign(message)


def new_private_key() -> PrivateKey:
    return Ed25519PrivateKey.generate()


def load_private_key(pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """The key of a PKCS#8 file. Raises ValueError with the reason: a passphrase may be wrong, missing or not
    needed."""
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:
        raise ValueError("it needs no passphrase" if passphrase else "it needs a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        why = "it is not a private key in PEM: name the private key file that `licet license keygen` wrote"
        if passphrase is not None:
            why = "wrong passphrase, or the file is damaged: try again, then use its copy"
        raise ValueError(why) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is a key of another kind: Ed25519 is expected")
    return key


def private_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS#8 in PEM, encrypted if there is a passphrase (1 to 1023 bytes). Raises ValueError."""
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_bytes(key: PrivateKey) -> bytes:
    """32 bytes."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _answers(jobs: BinaryIO) -> Iterator[Any]:
    message = b""
    while line := jobs.readline(MOST_LINE_BYTES + 1):
        if len(line) > MOST_LINE_BYTES:
            raise ValueError(f"a job of more than {MOST_LINE_BYTES} bytes")
        job = json.loads(line)
        if "message" in job:
            message = base64.b64decode(job["message"])
        if "verify" in job:
            # a check without a message is of the same message as the one before
            yield verify_one(bytes.fromhex(job["verify"]), message, base64.b64decode(job["signature"]))
        elif "new_host_key" in job:
            yield _host_key(new_private_key())
        else:
            yield _with_private_key(job, message)


def _with_private_key(job: dict[str, Any], message: bytes) -> Any:
    pem = job["public_of"] if "public_of" in job else job["sign"]
    try:
        key = load_private_key(pem.encode())
    except ValueError as error:
        return {"no_key": str(error)}
    return _host_key(key) if "public_of" in job else base64.b64encode(sign(key, message)).decode()


def _host_key(key: PrivateKey) -> dict[str, str]:
    return {"private": private_pem(key, None).decode(), "public": public_bytes(key).hex()}


def main() -> int:
    """Do the jobs of stdin. Returns the exit code."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a private key is in memory
    try:
        for answer in _answers(sys.stdin.buffer):
            sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
