"""Requests: what an operator sends to a vendor so that a license can be locked to a host.

The host's key signs a request: it was made there, and not changed since."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime

from agent.license import fields, strict_json
from agent.license.curve import PUBLIC_KEY_BYTES, is_usable
from agent.license.envelope import from_base64
from agent.license.fields import Mistake, instant, item, listed, node_id, text
from agent.license.node import host_key_node
from agent.model import show_time

REQUEST_TYPE = "application/vnd.licet.request.v1+json"
_REQUEST = ("hostname", "requested_at", "licet", "kernel", "node_ids", "public_key")
_MOST_IDS = 8


@dataclass(frozen=True, slots=True)
class HostRequest:
    """The payload of a request."""

    hostname: str
    requested_at: datetime
    licet: str
    """Version of licet."""
    kernel: str
    """Release of the kernel, as `uname -r` prints it."""
    node_ids: tuple[str, ...]
    public_key: bytes
    """The host's public key, 32 bytes. One of the node ids is the id of this key."""


def request_payload(request: HostRequest) -> bytes:
    """Compact JSON that read_request() reads back to the same value."""
    raw = {
        "hostname": request.hostname,
        "requested_at": show_time(request.requested_at),
        "licet": request.licet,
        "kernel": request.kernel,
        "node_ids": list(request.node_ids),
        "public_key": base64.b64encode(request.public_key).decode(),
    }
    return json.dumps(raw, ensure_ascii=False, separators=(",", ":")).encode()


def read_request(payload: bytes) -> HostRequest:
    """Fields of later versions are ignored: a vendor may have an earlier one. Raises Malformed."""
    raw = strict_json.parse(payload)
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if key in _REQUEST}
    with fields.malformed():
        of = item(raw, _REQUEST)
        request = HostRequest(
            hostname=of.need("hostname", text),
            requested_at=of.need("requested_at", instant),
            licet=of.need("licet", text),
            kernel=of.need("kernel", text),
            node_ids=of.need("node_ids", listed(node_id, _MOST_IDS)),
            public_key=of.need("public_key", _public_key),
        )
        if host_key_node(request.public_key) not in request.node_ids:
            raise Mistake("no node id is that of public_key", "make the request anew", ("node_ids",))
    return request


def _public_key(value: object) -> bytes:
    try:
        public_key = from_base64(text(value))
    except ValueError as error:
        raise Mistake(f"{error}", "make the request anew") from error
    if not is_usable(public_key):
        reason = f"not a key of {PUBLIC_KEY_BYTES} bytes that can be used"
        raise Mistake(reason, "make the request anew")
    return public_key
