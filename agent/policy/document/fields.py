"""Single values of a policy file. Each function converts a YAML value to the value used internally, or raises
the mistake with its remedy. Shared by the models in `schema`, the test files and the command line."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, date, datetime

from pydantic_core import PydanticCustomError

from agent.model import NAME, Container, Network, to_network
from agent.policy.tables.shape import MAX_CGROUPS, MAX_PATH_COMPONENTS
from agent.policy.terms import cgroups, paths
from agent.policy.terms.container_selector import ContainerSelector

MISTAKE = "licet"
"""Type of the pydantic errors raised here; `ctx` has reason and remedy."""

_MAX_CGROUP_BYTES = 256
"""CGROUP_BYTES of bpf/abi.h: a path and its NUL."""
_MAX_NAME_BYTES = 255
_MAX_ID = (1 << 32) - 2
"""The kernel's largest uid or gid; -1 stands for "no change"."""


def mistake(reason: str, remedy: str = "") -> PydanticCustomError:
    # pydantic treats the message as a template, so braces of the operator's text must not be in it.
    return PydanticCustomError(MISTAKE, "{reason}", {"reason": reason, "remedy": remedy})


def kind(value: object) -> str:
    """A few words for what the operator wrote."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true or false)"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, datetime | date):
        return f"the date {value}"
    return "a list" if isinstance(value, list | tuple) else "a mapping"


def text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    remedy = "quote it" if isinstance(value, bool | int | float | date) else ""
    raise mistake(f"expected text, found {kind(value) if value != '' else 'an empty text'}", remedy)


def name(value: object) -> str:
    chosen = text(value)
    if not NAME.fullmatch(chosen):
        raise mistake(f"'{chosen}' is not a valid name", "use letters, digits, _ . - and at most 63 of them")
    return chosen


def choice(*options: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise mistake(
                f"{kind(value)} is not one of {', '.join(options)}", f"write one of {', '.join(options)}"
            )
        return value

    return parse


def listed(value: object) -> tuple[object, ...]:
    """The values of a key, which may hold one value or a list."""
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values:
        raise mistake("an empty list matches nothing", "remove the key, or list at least one value")
    return values


def items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise mistake(
            f"expected a list, found {kind(value)}", "put each entry on a line of its own, after a -"
        )
    if not value:
        raise mistake("an empty list", "list at least one entry, or remove the key")
    return value


def network(value: object) -> Network:
    chosen = text(value)
    try:
        return to_network(chosen)
    except ValueError as error:
        if "host bits set" in str(error):
            meant = ipaddress.ip_network(chosen, strict=False)
            remedy = f"write {meant} for the network, {chosen.partition('/')[0]} for the address"
            raise mistake(f"'{chosen}' has host bits set", remedy) from error
        raise mistake(f"'{chosen}' is not a valid CIDR", "write 10.2.0.0/16, 10.2.0.7 or fd00::/8") from error


def place(value: object) -> tuple[Network, ...] | tuple[ContainerSelector, ...] | None:
    """The value of `at`; None is this host."""
    if value == "host":
        return None
    if isinstance(value, dict):
        if "pod" in value:
            raise mistake(
                "a service at a pod is not supported by this version yet",
                "write container: {namespace: …, pod: …}",
            )
        if set(value) != {"container"}:
            raise mistake(
                "expected host, a list of CIDRs or {container: …}, found another mapping", "write `at: host`"
            )
        return tuple(container(each) for each in listed(value["container"]))
    return tuple(network(each) for each in listed(value))


_PORTS = re.compile(r"([1-9][0-9]{0,5}|0)(?:-([1-9][0-9]{0,5}|0))?")


def port_range(value: object) -> tuple[int, int]:
    """(first, last), both included."""
    if isinstance(value, int) and not isinstance(value, bool):
        first = last = value
    elif isinstance(value, str) and (parts := _PORTS.fullmatch(value)):
        first = int(parts[1])
        last = int(parts[2] or parts[1])
    else:
        raise mistake(f"{kind(value)} is not a valid port", "write 5432, or a range as 27000-27009")
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        raise mistake(f"port {value} is outside 1-65535")
    if last < first:
        raise mistake(f"port range {value} ends before it starts", f"write {last}-{first}")
    return first, last


def exe(value: object) -> str:
    """An absolute path or glob."""
    path = text(value)
    if not path.startswith("/"):
        raise mistake(f"exe '{path}' is not absolute", "write the whole path, as /usr/bin/python3")
    if any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise mistake(f"exe '{path}' is not a plain path", "leave out //, /./, /../ and a slash at the end")
    if paths.components(path) > MAX_PATH_COMPONENTS:
        raise mistake(
            f"exe '{path}' is deeper than the {MAX_PATH_COMPONENTS} components that the kernel programs walk",
            "select by unit, cgroup or user",
        )
    if wrong := paths.glob_mistake(path):
        raise mistake(f"exe '{path}' is not a valid glob: {wrong}", "globs are *, ?, [a-z] and **")
    return path


def account(value: object) -> str | int:
    """A user or group: a name, or its number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return number(value)
    return text(value)


def number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise mistake(f"expected a number, found {kind(value)}", "for names use the keys user and group")
    if not 0 <= value <= _MAX_ID:
        raise mistake(f"{value} is not a valid id", f"ids are 0 to {_MAX_ID}")
    return value


_TEMPLATE = re.compile(r"[^*?\[@/]+@\*\.(service|socket)")
"""All instances of a template: the star stands for the whole instance name."""


def unit(value: object) -> str:
    """A unit, or all instances of a template."""
    chosen = text(value)
    return chosen if _TEMPLATE.fullmatch(chosen) else one_unit(chosen)


def one_unit(value: object) -> str:
    """A unit by its full name; a template only with an instance."""
    chosen = text(value)
    if re.search(r"[*?\[]", chosen):
        raise mistake(
            f"unit '{chosen}': a star may only stand for the whole instance of a template",
            "write app@*.service, or list each unit",
        )
    if not chosen.endswith((*cgroups.UNIT_SUFFIXES, ".slice")):
        raise mistake(f"unit '{chosen}' has no type", f"write {chosen}.service")
    if "/" in chosen or chosen == "-.slice":
        raise mistake(
            f"'{chosen}' is not a unit that a consumer can be in", "give a unit's name, or use `cgroup`"
        )
    if chosen.removesuffix(".service").endswith("@"):
        instances = f"{chosen.partition('@')[0]}@*.service"
        raise mistake(
            f"unit '{chosen}' is a template, not a unit", f"write {instances}, or name each instance"
        )
    _refuse_deep(cgroups.usual_cgroup(chosen), f"unit '{chosen}'")
    return chosen


def _refuse_deep(path: str, what: str) -> None:
    """Refuses a path that the kernel programs would never find."""
    levels = path.count("/")
    if levels > MAX_CGROUPS:
        raise mistake(
            f"{what} is {levels} cgroups deep, and the kernel programs walk {MAX_CGROUPS} levels",
            f"name one of those above it, at the {MAX_CGROUPS}th level or higher, or select by exe or user",
        )
    parts = path.split("/")
    if len(path.encode()) >= _MAX_CGROUP_BYTES or any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise mistake(
            f"{what} is longer than the {_MAX_CGROUP_BYTES - 1} bytes that the kernel programs read",
            f"name one of those above it, at the {MAX_CGROUPS}th level or higher, or select by exe or user",
        )


def cgroup(value: object) -> str:
    path = _without_globs(text(value), "cgroup")
    if not path.startswith("/") or any(part in ("", ".", "..") for part in path.rstrip("/")[1:].split("/")):
        raise mistake(
            f"cgroup '{path}' is not a path below /",
            "write it as in /proc/PID/cgroup: /system.slice/x.service",
        )
    _refuse_deep(path.rstrip("/"), f"cgroup '{path}'")
    return path.rstrip("/")


_CONTAINER_KEYS = tuple(each.name for each in dataclasses.fields(ContainerSelector))


def container(value: object) -> ContainerSelector:
    """A glob of names, or a mapping with one glob for each property of a container."""
    if not isinstance(value, dict):
        return ContainerSelector(name=_glob(value, "container"))
    for key in value:
        if key not in _CONTAINER_KEYS:
            raise mistake(f"container: no such key: {key}", f"write one of {', '.join(_CONTAINER_KEYS)}")
    if not value:
        raise mistake("container: an empty mapping", f"write one of {', '.join(_CONTAINER_KEYS)}")
    return ContainerSelector(**{key: _glob(glob, f"container, {key}") for key, glob in value.items()})


def one_container(value: object) -> Container:
    """The single container that a question is about: written as a selector, but without globs."""
    asked = container(value)
    if wrong := next((each for each in dataclasses.astuple(asked) if re.search(r"[*?\[]", each)), ""):
        raise mistake(f"container '{wrong}' is a glob, not one container", "write its name")
    return Container("asked", "", asked.name, asked.image, asked.pod, asked.namespace, known=True)


def _glob(value: object, key: str) -> str:
    chosen = text(value)
    if chosen != chosen.strip() or any(character.isspace() for character in chosen):
        raise mistake(f"{key} '{chosen}' has blanks, which such names cannot have", "leave them out")
    if chosen.startswith("/"):
        raise mistake(f"{key} '{chosen}' starts with a slash, which such names cannot", f"write {chosen[1:]}")
    return chosen


def _without_globs(chosen: str, key: str) -> str:
    if re.search(r"[*?\[]", chosen):
        raise mistake(f"{key} '{chosen}': globs are not supported by this version yet", f"list each {key}")
    return chosen


def instant(value: object) -> datetime:
    """A time with a zone."""
    chosen = value
    if isinstance(chosen, str):
        try:
            chosen = datetime.fromisoformat(chosen)
        except ValueError as error:
            raise mistake(f"'{value}' is not a valid time", "write 2027-01-01T00:00:00Z") from error
    if isinstance(chosen, datetime) and chosen.utcoffset() is not None:
        try:
            return chosen.astimezone(UTC)
        except OverflowError as error:
            reason = f"time {value} is outside the years 1 to 9999 in UTC"
            raise mistake(reason, "leave out what never comes") from error
    if isinstance(chosen, date):
        day = chosen.strftime("%Y-%m-%d")
        raise mistake(f"time {value} has no time zone", f"write {day}T00:00:00Z for UTC")
    raise mistake(f"expected a time, found {kind(value)}", "write 2027-01-01T00:00:00Z")
