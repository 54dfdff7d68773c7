"""Uses and strangers as JSON, for the next daemon. Arguments are left out, because they may hold secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from agent import abi
from agent.daemon.tracking.past_uses import PastUse
from agent.daemon.tracking.strangers import Stranger
from agent.kernel.tables.rows import Use
from agent.model import (
    Container,
    Decision,
    Origin,
    PortClass,
    Process,
    Protocol,
    Reason,
    Target,
    Verdict,
    show_address,
    to_address,
)

_Record = TypeVar("_Record", Process, Container)
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


def to_json(one: PastUse) -> dict[str, Any]:
    """A use without arguments."""
    use = one.use
    return {
        "key": use.key.hex(),
        "target": [one.target.service, one.target.port_class.value],
        "grant": use.verdict.grant,
        "attempts": use.attempts,
        "first_ns": use.first_boot_ns,
        "last_ns": use.last_boot_ns,
        "source": show_address(use.source),
        "destination": show_address(use.destination),
        "port": use.port,
        "netns": use.netns,
        "share": use.share,
        "consumer": _fields_of(one.consumer) if one.consumer else None,
    }


def readable(stored: object) -> Iterator[PastUse]:
    """The readable uses of `stored`, which may be anything."""
    for one in stored if isinstance(stored, list) else ():
        try:
            yield _from_json(one)
        except _UNREADABLE:
            continue


def stranger_to_json(one: Stranger) -> dict[str, Any]:
    return {
        "target": [one.target.service, one.target.port_class.value],
        "process": _fields_of(one.process),
        "address": show_address(one.address),
        **{name: getattr(one, name) for name in _OF_STRANGERS},
    }


_OF_STRANGERS = {"port": int, "how": str, "times": int, "last_boot_ns": int}


def readable_strangers(stored: object) -> Iterator[Stranger]:
    for one in stored if isinstance(stored, list) else ():
        try:
            more = {name: _typed(one[name], kind) for name, kind in _OF_STRANGERS.items()}
            address = to_address(_typed(one["address"], str))
            yield Stranger(_target(one["target"]), _record(Process, one["process"]), address, **more)
        except _UNREADABLE:
            continue


def _target(stored: Sequence[str]) -> Target:
    service, port_class = stored
    return Target(_typed(service, str), PortClass(port_class))


def _from_json(stored: Mapping[str, Any]) -> PastUse:
    raw = bytes.fromhex(stored["key"])
    key = abi.UseKey.from_buffer_copy(raw)
    if bytes(key) != raw:
        raise ValueError("key of another version")
    consumer = stored["consumer"]
    process = None if consumer is None else _record(Process, consumer)
    numbers = {
        name: _typed(stored[name], int)
        for name in ("grant", "attempts", "first_ns", "last_ns", "port", "netns", "share")
    }
    use = Use(
        key=raw,
        attempts=numbers["attempts"],
        verdict=Verdict(
            Decision(key.decision), Reason(key.reason), key.target, numbers["grant"], bool(key.enforced)
        ),
        origin=Origin(key.origin),
        protocol=Protocol(key.protocol),
        consumer=process,
        comm=process.comm if process else "",
        netns=numbers["netns"],
        source=to_address(_typed(stored["source"], str)),
        source_port=0,
        destination=to_address(_typed(stored["destination"], str)),
        port=numbers["port"],
        first_boot_ns=numbers["first_ns"],
        last_boot_ns=numbers["last_ns"],
        told=True,
        use_of=abi.UseOf(key.use_of),
        share=numbers["share"],
    )
    return PastUse(use, _target(stored["target"]), process)


def _fields_of(record: Process | Container) -> dict[str, Any]:
    """The known fields. The others have their defaults."""
    known = {}
    for each in fields(record):
        value = getattr(record, each.name)
        if each.name not in _LEFT_OUT and (value or (each.name in _IDS and value is not None)):
            known[each.name] = _fields_of(value) if isinstance(value, Container) else value
    return known


_LEFT_OUT = ("args",)
_IDS = ("uid", "gid")
"""Fields whose 0 is stored: 0 is root's id and differs from unknown."""


_KINDS = {each: get_type_hints(each) for each in (Process, Container)}


def _record(kind: type[_Record], stored: Mapping[str, Any]) -> _Record:
    kinds = _KINDS[kind]
    return kind(**{name: _typed(value, kinds[name]) for name, value in stored.items()})


def _typed(value: Any, kind: Any) -> Any:
    """`value`, checked and converted to `kind`. Raises TypeError."""
    if isinstance(kind, UnionType):
        return None if value is None else _typed(value, get_args(kind)[0])
    if kind is Container:
        return _record(Container, value)
    if get_origin(kind) is tuple:
        return tuple(_typed(one, get_args(kind)[0]) for one in _typed(value, list))
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not a valid {kind.__name__}")
    return value
