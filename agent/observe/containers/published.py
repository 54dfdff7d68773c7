"""Ports of this host that lead into containers, from the files of the runtimes: docker, CNI's plugins
(podman, CRI-O, containerd's CRI plugin, nerdctl) and netavark (podman)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from agent.model import MAPPED_PREFIX, Address, Protocol, Publication, to_address
from agent.observe.containers.files import mapping, read_json, text

_ANY_IPV4, _ANY_IPV6 = Address(MAPPED_PREFIX), Address(0)
_PROTOCOLS = {each.name.lower(): each for each in Protocol}
_MOST = 65535
_Parse = Callable[[Any, str], list[Publication]]


class Published:
    """Reads published ports. A file is read again only after it has changed. `docker`: directories of
    containers; `cni`: CNI's cache of results; `netavark`: netavark's directory of forwarded ports."""

    def __init__(self, docker: tuple[Path, ...], cni: Path, netavark: Path) -> None:
        self._docker, self._cni, self._netavark = docker, cni, netavark
        self._read: dict[Path, tuple[tuple[int, int, int], list[Publication]]] = {}
        """By file: its stat identity when it was read, and its ports."""

    def all(self) -> tuple[Publication, ...]:
        docker = (path / "config.v2.json" for root in self._docker for path in _entries(root))
        files: list[tuple[Path, _Parse]] = [
            *((path, _of_docker) for path in docker),
            *((path, _of_cni) for path in _entries(self._cni)),
            *((path, _of_netavark) for path in _entries(self._netavark)),
        ]
        read = {path: found for path, parse in files if (found := self._state_of(path, parse))}
        self._read = read
        return tuple(one for _, found in read.values() for one in found)

    def _state_of(self, path: Path, parse: _Parse) -> tuple[tuple[int, int, int], list[Publication]] | None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._read.get(path)
        return known if known and known[0] == state else (state, parse(read_json(path), str(path)))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _of_docker(state: Any, path: str) -> list[Publication]:
    """Ports in a config.v2.json. It has none while the container does not run."""
    settings = mapping(state, "NetworkSettings")
    networks = mapping(settings, "Networks")
    inside = [
        address
        for name in networks
        for key in ("IPAddress", "GlobalIPv6Address")
        if (address := _address(text(mapping(networks, name), key)))
    ]
    found: list[Publication] = []
    for port, places in mapping(settings, "Ports").items():
        number, _, protocol = port.partition("/")
        for place in _mappings(places):
            outside = (text(place, "HostIp"), place.get("HostPort"), protocol)
            found += _publications(outside, inside, number, 1, path)
    return found


def _of_cni(cached: Any, path: str) -> list[Publication]:
    """Ports in libcni's cached result for a container."""
    inside = [
        address
        for one in _mappings(mapping(cached, "result").get("ips"))
        if (address := _address(text(one, "address").partition("/")[0]))
    ]
    return [
        publication
        for one in _mappings(mapping(cached, "capabilityArgs").get("portMappings"))
        for publication in _publications(
            (text(one, "hostIP"), one.get("hostPort"), text(one, "protocol")),
            inside,
            one.get("containerPort"),
            1,
            path,
        )
    ]


def _of_netavark(ports: Any, path: str) -> list[Publication]:
    if not isinstance(ports, dict):
        return []
    inside = [
        address for key in ("container_ip_v4", "container_ip_v6") if (address := _address(text(ports, key)))
    ]
    return [
        publication
        for one in _mappings(ports.get("port_mappings"))
        for publication in _publications(
            (text(one, "host_ip"), one.get("host_port"), text(one, "protocol")),
            inside,
            one.get("container_port"),
            _number(one.get("range")) or 1,
            path,
        )
    ]


def _publications(
    outside: tuple[str, Any, str], inside: Iterable[Address], to_port: Any, count: int, by: str
) -> Iterator[Publication]:
    """`outside`: address, port and protocol on this host. Without an address, the wildcard of each of the
    container's address families is used."""
    host, port, protocol = outside
    to, first, first_to = tuple(inside), _number(port), _number(to_port)
    known = _PROTOCOLS.get(protocol.lower() or "tcp")
    if not (known and to and first and first_to):
        return
    address = _address(host)
    families = {_ANY_IPV4 if one.ipv4_mapped else _ANY_IPV6 for one in to}
    for place in (address,) if address else sorted(families):
        for each in range(min(count, _MOST - first + 1)):
            yield Publication(known, place, first + each, to, first_to + each, by)


def _mappings(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list; empty if the value is not a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _address(text: str) -> Address | None:
    try:
        return to_address(text)
    except ValueError:
        return None


def _number(value: Any) -> int:
    """A port given as a number or as text; 0 if it is not a valid port."""
    text = str(value)
    return int(text) if text.isdecimal() and len(text) <= 5 and int(text) <= _MOST else 0
