"""Node ids: which host this is, without telling the confidential ids it comes from."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection

from agent.license.values import NodeLock

# machine-id(5): an application derives its own id from the machine's, by a keyed hash.
_LICET = bytes.fromhex("ae2bffce033939715d10690e1c1f7666")
_ID = re.compile("[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FEWEST_DIGITS = 4
"""Of different digits. One random id of 10^20 has fewer; ids that nobody set are 0000… or fefe…."""
_PLACEHOLDERS = {
    "03000200040005000006000700080009",
    "0123456789abcdef0123456789abcdef",
    "0123456789abcdeffedcba9876543210",
    "00112233445566778899aabbccddeeff",
    "11111111222233334444555555555555",
    "123456781234567890abcddeefaabbcc",
    "12345678123456789012123456789012",
    "1234567812345678123456789abcdef0",
    "4c4c454400002010802080c04f202020",
}
"""Ids that makers of boards left in many hosts. The last is a Dell without its service tag."""


def machine_id_node(machine_id: str) -> str:
    """mi: and 64 hex digits. Raises ValueError for what identifies no host."""
    return f"mi:{_keyed(machine_id, 'machine-id')}"


def product_node(uuid: str) -> str:
    """dm: and 64 hex digits, of DMI's product_uuid. Raises ValueError for what identifies no host."""
    return f"dm:{_keyed(uuid, 'product_uuid')}"


def host_key_node(public_key: bytes) -> str:
    """hk: and 64 hex digits, of the host's public key."""
    return f"hk:{hashlib.sha256(public_key).hexdigest()}"


def matches(lock: NodeLock | None, ids: Collection[str]) -> bool:
    """True if the host with these node ids may use a license with this lock."""
    return lock is None or len(set(lock.any_of) & set(ids)) >= lock.at_least


def _keyed(value: str, what: str) -> str:
    plain = value.strip().lower()
    if not _ID.fullmatch(plain):
        raise ValueError(f"{what} is not 32 hex digits")
    digits = plain.replace("-", "")
    if len(set(digits)) < _FEWEST_DIGITS or {digits, _other_byte_order(digits)} & _PLACEHOLDERS:
        raise ValueError(f"{what} is a placeholder that many hosts share")
    return hmac.new(_LICET, digits.encode(), hashlib.sha256).hexdigest()


def _other_byte_order(digits: str) -> str:
    """Older firmware gives the first three fields of a UUID in the other byte order (SMBIOS 2.6)."""
    pairs = bytes.fromhex(digits)
    return (pairs[3::-1] + pairs[5:3:-1] + pairs[7:5:-1] + pairs[8:]).hex()
