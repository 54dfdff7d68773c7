"""The schema of a policy file: one pydantic model for each kind of item in it.

Each model validates one item, so that a mistake in one item hides no mistake in another. `check` verifies
names that are defined elsewhere. The models return values as they are used internally: networks, port ranges,
times.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from agent.model import Network
from agent.policy.document.fields import (
    account,
    cgroup,
    choice,
    container,
    exe,
    instant,
    items,
    listed,
    mistake,
    name,
    network,
    number,
    place,
    port_range,
    text,
    unit,
)
from agent.policy.terms.container_selector import ContainerSelector

Name = Annotated[str, PlainValidator(name)]
Instant = Annotated[datetime, PlainValidator(instant)]
Class = Annotated[str, PlainValidator(choice("public", "internal", "admin"))]
CIDR = Annotated[Network, PlainValidator(network)]
Items = Annotated[list[Any], PlainValidator(items)]
Names = Annotated[tuple[Name, ...], BeforeValidator(listed)]
Classes = Annotated[tuple[Class, ...], BeforeValidator(listed)]
CIDRs = Annotated[tuple[CIDR, ...], BeforeValidator(listed)]
Accounts = Annotated[tuple[Annotated[str | int, PlainValidator(account)], ...], BeforeValidator(listed)]
Numbers = Annotated[tuple[Annotated[int, PlainValidator(number)], ...], BeforeValidator(listed)]
Exes = Annotated[tuple[Annotated[str, PlainValidator(exe)], ...], BeforeValidator(listed)]
Units = Annotated[tuple[Annotated[str, PlainValidator(unit)], ...], BeforeValidator(listed)]
Cgroups = Annotated[tuple[Annotated[str, PlainValidator(cgroup)], ...], BeforeValidator(listed)]
Containers = Annotated[
    tuple[Annotated[ContainerSelector, PlainValidator(container)], ...], BeforeValidator(listed)
]


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceItem(Item):
    product: Name
    at: Annotated[tuple[Network, ...] | tuple[ContainerSelector, ...] | None, PlainValidator(place)] = None
    owner: Items = Field(default_factory=list)
    ports: Items
    on_unresolved: Annotated[str | None, PlainValidator(choice("allow", "deny"))] = None
    on_end: Annotated[str, PlainValidator(choice("keep", "cut"))] = "keep"
    on_deny: Annotated[str, PlainValidator(choice("reset", "drop"))] = "reset"


class PortItem(Item):
    port: Annotated[tuple[int, int], PlainValidator(port_range)]
    port_class: Class = Field(alias="class")
    protocol: Annotated[str, PlainValidator(choice("tcp", "udp"))] = "tcp"
    bind: CIDRs | None = None


class SelectorItem(Item):
    exe: Exes = ()
    user: Accounts = ()
    uid: Numbers = ()
    group: Accounts = ()
    gid: Numbers = ()
    unit: Units = ()
    cgroup: Cgroups = ()
    container: Containers = ()
    cidr: CIDRs = ()

    @model_validator(mode="after")
    def _speaks(self) -> SelectorItem:
        if not self.model_fields_set:
            raise mistake(
                "a selector without a key matches nothing", "use the principal `anyone` for every consumer"
            )
        for one, other in (
            ("unit", "cgroup"),
            ("container", "unit"),
            ("container", "cgroup"),
            ("user", "uid"),
            ("group", "gid"),
        ):
            if getattr(self, one) and getattr(self, other):
                raise mistake(
                    f"a selector with both {one} and {other}", "keep one, or make two entries of it"
                )
        return self


class LicenseItem(Item):
    id: Name
    product: Name
    licensee: Annotated[str, PlainValidator(text)] = ""
    starts_at: Instant | None = None
    expires_at: Instant | None = None
    terminates_at: Instant | None = None
    entitlements: Items

    @model_validator(mode="after")
    def _in_order(self) -> LicenseItem:
        check_window(self.starts_at, self.expires_at)
        if self.terminates_at and not self.expires_at:
            raise mistake("terminates_at without expires_at", "grace is the time between the two: give both")
        if self.terminates_at and self.expires_at and self.terminates_at < self.expires_at:
            raise mistake(
                "terminates_at is before expires_at", "grace starts at expires_at and ends at terminates_at"
            )
        return self


class EntitlementItem(Item):
    id: Name
    services: Names | None = None
    classes: Classes | None = None
    principals: Names
    starts_at: Instant | None = None
    expires_at: Instant | None = None

    @model_validator(mode="after")
    def _in_order(self) -> EntitlementItem:
        check_window(self.starts_at, self.expires_at)
        return self


class ExclusionItem(Item):
    exclude: Name
    target: Annotated[str, PlainValidator(text)]


def check_window(starts_at: datetime | None, expires_at: datetime | None) -> None:
    if starts_at and expires_at and expires_at <= starts_at:
        raise mistake("expires_at is not after starts_at", "such a window never holds: swap or correct them")


NOT_YET: dict[type[Item], dict[str, str]] = {
    SelectorItem: {"pod": "use container: {namespace: …, pod: …}"},
    LicenseItem: dict.fromkeys(
        ("file", "signature", "signed", "payload", "key", "keys", "node", "seats"),
        "write the license itself into the policy",
    ),
    EntitlementItem: dict.fromkeys(("seats", "requires", "count_by", "max"), "remove it"),
    ExclusionItem: dict.fromkeys(
        ("principal", "entitlement", "max"), "only {exclude, target} restrictions are"
    ),
}
"""Keys planned for later versions. They are refused by name rather than half obeyed."""

NOT_YET_SECTIONS = dict.fromkeys(
    ("licenses_dir", "license_files", "keys", "keys_dir"), "write licenses into the policy, under licenses"
)
