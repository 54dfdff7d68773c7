"""A policy as values: the content of the files after every check, with the place where each was written.

This module knows neither YAML nor the kernel. `document` makes these values, and `tables` compiles them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum, StrEnum
from functools import cached_property

from agent.license.values import LicenseDocument
from agent.model import Mode, Network, PortClass, Protocol, Reason, Target
from agent.policy.terms.container_selector import ContainerSelector
from agent.policy.terms.ports import ByPort, Ports
from agent.wording import plain

ANYONE = "anyone"
"""The built-in principal that includes every consumer."""


class Unresolved(IntEnum):
    """Whether to allow an attempt whose consumer could be licensed but is not known well enough."""

    DENY = 0
    ALLOW = 1
    ALLOW_UNLESS_ENFORCING = 2


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something was written. `line` is 1-based; None where the file as a whole is meant."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return plain(self.file) if self.line is None else f"{plain(self.file)}:{self.line}"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One mistake or doubt about a policy: where, what, and the remedy."""

    place: Place
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}" + (f" ({self.remedy})" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class Selector:
    """One entry of a principal or an owner list. Its keys are AND, the values of a key OR.

    An empty tuple means that the entry has no condition on that key.
    """

    place: Place
    exe: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    gids: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    containers: tuple[ContainerSelector, ...] = ()
    networks: tuple[Network, ...] = ()

    @property
    def only_networks(self) -> bool:
        """True for an entry that an address alone can satisfy."""
        return bool(self.networks) and not (
            self.exe or self.accounts or self.units or self.cgroups or self.containers
        )

    @property
    def only_exe(self) -> bool:
        """True for an entry that an executable alone can satisfy."""
        return bool(self.exe) and not (
            self.accounts or self.units or self.cgroups or self.containers or self.networks
        )

    @property
    def accounts(self) -> tuple[str | int, ...]:
        """Users and groups, by name or number."""
        return (*self.users, *self.uids, *self.groups, *self.gids)

    @property
    def confined(self) -> bool:
        """True for an entry that is about processes outside containers: files and accounts inside are the
        container's own."""
        return bool(self.exe or self.accounts) and not self.containers


@dataclass(frozen=True, slots=True)
class Principal:
    name: str
    place: Place
    selectors: tuple[Selector, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """A port or a range of them (both ends included), of one class."""

    place: Place
    first: int
    last: int
    port_class: PortClass
    protocol: Protocol = Protocol.TCP
    bind: tuple[Network, ...] | None = None
    """Allowed listening scope; None: the default of the class."""

    def takes(self, protocol: Protocol, port: int) -> bool:
        return self.protocol is protocol and self.first <= port <= self.last

    def __str__(self) -> str:
        numbers = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{numbers}/{self.protocol.name.lower()}"


@dataclass(frozen=True, slots=True)
class Service:
    """One service, with its ports and who may serve it."""

    name: str
    place: Place
    product: str
    ports: tuple[Port, ...]
    at: tuple[Network, ...] | None = None
    """None: this host, or the containers of `at_containers`."""
    at_containers: tuple[ContainerSelector, ...] = ()
    owner: tuple[Selector, ...] = ()
    """Who may serve it; empty: any process."""
    on_unresolved: bool | None = None
    """Allow an attempt whose consumer is not known yet. None: the default of the class, if the target does
    not enforce."""
    cuts: bool = False
    """End established flows whose license has ended, if the target enforces."""
    drops: bool = False
    """Leave a refused SYN without an answer, instead of resetting it, if the packet gate sees it."""

    @property
    def at_host(self) -> bool:
        return self.at is None and not self.at_containers

    @property
    def owner_name(self) -> str:
        """The name of its owners as a principal."""
        return f"owner of {self.name}"

    @property
    def owners_there(self) -> tuple[Selector, ...]:
        """The owners. For a service at containers, an owner entry without a container, unit or cgroup means
        processes in those containers."""
        return tuple(
            each
            if each.units or each.cgroups or each.containers
            else replace(each, containers=self.at_containers)
            for each in self.owner
        )

    @property
    def classes(self) -> tuple[PortClass, ...]:
        """In the order in which the ports first name them."""
        return tuple(dict.fromkeys(port.port_class for port in self.ports))

    def unresolved(self, port_class: PortClass) -> Unresolved:
        if self.on_unresolved is None:
            is_admin = port_class is PortClass.ADMIN
            return Unresolved.DENY if is_admin else Unresolved.ALLOW_UNLESS_ENFORCING
        return Unresolved.ALLOW if self.on_unresolved else Unresolved.DENY


@dataclass(frozen=True, slots=True)
class Window:
    """When a grant holds: from `starts_at`; in grace from `expires_at`; no longer from `ends_at`. None means
    "always" for the start and "never" for an end."""

    starts_at: datetime | None = None
    expires_at: datetime | None = None
    ends_at: datetime | None = None

    def narrowed_by(self, other: Window) -> Window:
        """The time in which both hold."""
        return Window(
            starts_at=_latest(self.starts_at, other.starts_at),
            expires_at=_earliest(self.expires_at, other.expires_at),
            ends_at=_earliest(self.ends_at, other.ends_at),
        )

    def has_ended(self, now: datetime) -> bool:
        return self.ends_at is not None and now >= self.ends_at


@dataclass(frozen=True, slots=True)
class Entitlement:
    id: str
    place: Place
    principals: tuple[str, ...]
    services: tuple[str, ...] | None = None
    """None: every service of the license's product."""
    classes: tuple[PortClass, ...] | None = None
    """None: every class."""
    window: Window = Window()


@dataclass(frozen=True, slots=True)
class License:
    id: str
    place: Place
    product: str
    licensee: str
    window: Window
    entitlements: tuple[Entitlement, ...]
    state: Reason | None = None
    """Why it grants nothing, whatever its window; None: its window decides."""
    document: LicenseDocument | None = None
    """The signed document; None for a license written in the policy."""
    is_verified: bool = True
    """False for a document without a valid signature. It only tells why it grants nothing: it has no grant
    ids, and no metric has its name."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A restriction that excludes a principal from a service, or from one class of it."""

    place: Place
    principal: str
    service: str
    port_class: PortClass | None = None

    def covers(self, target: Target) -> bool:
        return self.service == target.service and self.port_class in (None, target.port_class)


class UndeclaredListeners(StrEnum):
    IGNORE = "ignore"
    REPORT = "report"
    VIOLATION = "violation"


@dataclass(frozen=True)  # without slots, which have no room for what is cached
class Policy:
    """All files of a policy, merged. Mappings and tuples keep the order of the files."""

    services: Mapping[str, Service] = field(default_factory=dict)
    principals: Mapping[str, Principal] = field(default_factory=dict)
    licenses: tuple[License, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    enforcement: Mapping[str, Mode] = field(default_factory=dict)
    """By `service/class`, `service` or `default`."""
    undeclared_listeners: UndeclaredListeners = UndeclaredListeners.REPORT
    files: tuple[str, ...] = ()
    sha256: str = ""
    """SHA-256 of the files' contents in order: `cat FILE… | sha256sum`."""
    warnings: tuple[Finding, ...] = ()

    @cached_property
    def ports(self) -> Ports:
        """Every port that a service declares, whatever the protocol."""
        return Ports.of(port for service in self.services.values() for port in service.ports)

    @cached_property
    def declared(self) -> ByPort[tuple[Service, Port]]:
        """Each declared port with its service, in policy order."""
        pairs = ((service, port) for service in self.services.values() for port in service.ports)
        return ByPort.of(pairs, lambda one: one[1])

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        return tuple(
            Target(service.name, port_class)
            for service in self.services.values()
            for port_class in service.classes
        )

    def declares(self, protocol: Protocol, *, elsewhere: bool = False) -> bool:
        """True if a service declares a port of this protocol. `elsewhere`: only services that are not on this
        host alone."""
        services = (each for each in self.services.values() if not (elsewhere and each.at_host))
        return any(port.protocol is protocol for service in services for port in service.ports)

    def mode_of(self, target: Target) -> Mode:
        """The policy's mode, without run-time overrides."""
        names = (str(target), target.service, "default")
        return next((self.enforcement[name] for name in names if name in self.enforcement), Mode.OBSERVE)


def _latest(a: datetime | None, b: datetime | None) -> datetime | None:
    return max(a, b) if a and b else a or b


def _earliest(a: datetime | None, b: datetime | None) -> datetime | None:
    return min(a, b) if a and b else a or b
