"""Which names the scrape endpoint answers to. A page in somebody's browser can have a name of its own lead to
this host (DNS rebinding), and would read what the browser may reach; its requests carry that name as Host."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable

from starlette.requests import Request

from agent.export.http import JsonAnswer

ANY = "*"


class Hosts:
    """An address, localhost and this node's name are always answered to; of others, those that are named."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        own = ("localhost", os.uname().nodename)
        self._names = frozenset(name.lower().rstrip(".") for name in (*own, *named))

    def refusal(self, request: Request) -> JsonAnswer | None:
        """None: it is answered."""
        name = _name(request.headers.get("host", ""))
        if ANY in self._names or name in self._names or _is_address(name):
            return None
        error = f"Host {name!r} is not this agent's name; to answer to it, add it to `hosts` of config.yaml"
        return JsonAnswer({"error": error}, status_code=421)


def _name(host: str) -> str:
    """Of HOST, HOST:PORT or [ADDRESS]:PORT, as names are compared; empty, where HTTP/1.0 leaves it out."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    """Nobody can have an address lead elsewhere. No name at all comes from no browser."""
    if not name:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
