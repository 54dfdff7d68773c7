"""The host's own key, made and used by the child."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.license import child
from agent.license.child import NoVerdict
from agent.license.curve import is_usable
from agent.system import files

KEY, PUBLIC = "host.key", "host.pub"
"""Files in paths.state: the private key in PEM, and the public key in hex."""
_TIMEOUT_S = 30.0
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class HostKey:
    private_pem: bytes = field(repr=False)
    """PKCS#8 without a passphrase. Secret."""
    public_key: bytes
    """32 bytes."""


def ensure_host_key(folder: Path) -> bytes:
    """The public key of this host, 32 bytes. It is made if neither file is there.

    Raises OSError, ValueError for a damaged file, and NoVerdict."""
    while True:
        public = _stored(folder)
        if public is not None:
            return public
        private = _private(folder)
        key = new_host_key() if private is None else _of_file(folder, private)
        with _locked(folder):
            if _stored(folder) is None and _private(folder) == private:
                _write(folder, key, is_new=private is None)
                return key.public_key
        # another process, the daemon or a command, was faster


def replace_host_key(folder: Path) -> HostKey:
    """Make a new key, whatever there is. Nothing of the old one is kept. Raises OSError and NoVerdict."""
    key = new_host_key()
    with _locked(folder):
        # first: a public key without its private one would name another host
        with contextlib.suppress(FileNotFoundError):
            (folder / PUBLIC).unlink()
        _write(folder, key, is_new=True)
    return key


def public_of_private(folder: Path) -> bytes:
    """The public key of the private one, 32 bytes. The public key's file is not read.

    Raises OSError, ValueError for a damaged file, and NoVerdict."""
    return _of_file(folder, files.read_bytes(folder / KEY, _MOST_BYTES)).public_key


def load_host_key(folder: Path) -> HostKey:
    """This host's key with its private part. It is made if neither file is there.

    Raises OSError, ValueError for damaged files, and NoVerdict."""
    public = ensure_host_key(folder)
    private = files.read_bytes(folder / KEY, _MOST_BYTES)
    key = _of_file(folder, private)
    if key.public_key != public:
        raise ValueError(f"{folder / PUBLIC}: it is not of {KEY}; remove it, and licet writes it again")
    return HostKey(private, public)


def _stored(folder: Path) -> bytes | None:
    try:
        text = files.read_bytes(folder / PUBLIC, _MOST_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    try:
        public = bytes.fromhex(text)
    except ValueError:
        public = b""
    if not is_usable(public):
        raise ValueError(
            f"{folder / PUBLIC}: damaged: not a public key; remove it, and licet writes it again"
        )
    return public


def _private(folder: Path) -> bytes | None:
    try:
        return files.read_bytes(folder / KEY, _MOST_BYTES)
    except FileNotFoundError:
        return None


def _of_file(folder: Path, private: bytes) -> HostKey:
    try:
        return host_key_of(private)
    except ValueError as error:
        remedy = "`licet license request --new-host-key` makes another"
        raise ValueError(f"{folder / KEY}: damaged: {error}; {remedy}") from error


def _write(folder: Path, key: HostKey, *, is_new: bool) -> None:
    if is_new:
        files.write_text(folder / KEY, key.private_pem.decode())
    files.write_text(folder / PUBLIC, key.public_key.hex() + "\n")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time writes. It holds the lock for two small files only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def new_host_key(timeout_s: float = _TIMEOUT_S) -> HostKey:
    """Raises NoVerdict."""
    return _host_key({"new_host_key": True}, timeout_s)


def host_key_of(private_pem: bytes, timeout_s: float = _TIMEOUT_S) -> HostKey:
    """The key of a file that was read. Raises NoVerdict. Raises ValueError if the file has no such key."""
    return _host_key({"public_of": _text(private_pem)}, timeout_s)


def sign_as_host(private_pem: bytes, message: bytes, timeout_s: float = _TIMEOUT_S) -> bytes:
    """64 bytes. Raises NoVerdict. Raises ValueError if the file has no such key."""
    job = {"sign": _text(private_pem), "message": base64.b64encode(message).decode()}
    answer = _asked(job, timeout_s)
    try:
        return base64.b64decode(answer, validate=True)
    except (TypeError, ValueError) as error:
        raise NoVerdict("the signer gave no signature") from error


def _text(private_pem: bytes) -> str:
    try:
        return private_pem.decode("ascii")
    except UnicodeDecodeError as error:
        raise ValueError("it is not a private key in PEM") from error


def _host_key(job: dict[str, Any], timeout_s: float) -> HostKey:
    answer = _asked(job, timeout_s)
    try:
        key = HostKey(answer["private"].encode(), bytes.fromhex(answer["public"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoVerdict("the signer gave no key") from error
    if not is_usable(key.public_key):
        raise NoVerdict("the signer gave no key that can be used")
    return key


def _asked(job: dict[str, Any], timeout_s: float) -> Any:
    answer = child.run([job], timeout_s)[0]
    if isinstance(answer, dict) and "no_key" in answer:
        raise ValueError(answer["no_key"])
    return answer
