"""Checks the Host header of scrapes, against DNS rebinding. A web page can make a name of its own resolve to
this host, and could then read /metrics through the user's browser. Such requests carry that name as Host."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable

from starlette.requests import Request

from agent.export.http import JsonAnswer

ANY = "*"


class Hosts:
    """The accepted names: any address, localhost, this node's name, and the names given."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        own = ("localhost", os.uname().nodename)
        self._names = frozenset(name.lower().rstrip(".") for name in (*own, *named))

    def refusal(self, request: Request) -> JsonAnswer | None:
        """The error response for a request with an unknown Host; None if the Host is accepted."""
        name = _name(request.headers.get("host", ""))
        if ANY in self._names or name in self._names or _is_address(name):
            return None
        error = f"Host {name!r} is not this agent's name; to answer to it, add it to `hosts` of config.yaml"
        return JsonAnswer({"error": error}, status_code=421)


def _name(host: str) -> str:
    """The host part of HOST, HOST:PORT or [ADDRESS]:PORT, normalised for comparison. Empty if HTTP/1.0 leaves
    Host out."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    """True for an address, which DNS cannot redirect. True without a name too: browsers always send one."""
    if not name:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
