"""The host's own key, made and used by the child."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from agent.license import child
from agent.license.child import NoVerdict
from agent.license.curve import is_usable

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class HostKey:
    private_pem: bytes = field(repr=False)
    """PKCS#8 without a passphrase. Secret."""
    public_key: bytes
    """32 bytes."""


def new_host_key(timeout_s: float = _TIMEOUT_S) -> HostKey:
    """Raises NoVerdict."""
    return _host_key({"new_host_key": True}, timeout_s)


def host_key_of(private_pem: bytes, timeout_s: float = _TIMEOUT_S) -> HostKey:
    """The key of a file that was read. Raises NoVerdict, also for a file that has no such key."""
    return _host_key({"public_of": private_pem.decode(errors="replace")}, timeout_s)


def sign_as_host(private_pem: bytes, message: bytes, timeout_s: float = _TIMEOUT_S) -> bytes:
    """64 bytes. Raises NoVerdict."""
    job = {"private": private_pem.decode(errors="replace"), "message": base64.b64encode(message).decode()}
    answer = child.run([{"sign": job}], timeout_s)[0]
    if not isinstance(answer, str):
        raise NoVerdict("the signer gave no signature")
    return base64.b64decode(answer)


def _host_key(job: dict[str, Any], timeout_s: float) -> HostKey:
    answer = child.run([job], timeout_s)[0]
    try:
        key = HostKey(answer["private"].encode(), bytes.fromhex(answer["public"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoVerdict("the signer gave no key") from error
    if not is_usable(key.public_key):
        raise NoVerdict("the signer gave no key that can be used")
    return key
