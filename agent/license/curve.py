"""Public keys of Ed25519 that are no keys: with a point of small order as key, anybody can sign anything."""

from __future__ import annotations

PUBLIC_KEY_BYTES = 32
_PRIME = (1 << 255) - 19
_SIGN = 1 << 255
# The y coordinates of the eight points whose order divides 8 (RFC 8032, section 5.1), as little-endian bytes.
_ORDER_8 = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)
_SMALL_ORDER = {0, 1, _PRIME - 1, *(int.from_bytes(bytes.fromhex(y), "little") for y in _ORDER_8)}


def is_usable(public_key: bytes) -> bool:
    """False for a key of another length, a point of small order, and an encoding that is not canonical."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        return False
    y = int.from_bytes(public_key, "little") & ~_SIGN
    return y < _PRIME and y not in _SMALL_ORDER
