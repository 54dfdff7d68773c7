"""Converts the parts of a policy file from raw values to values of the Policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from agent.model import NAME, PortClass, Protocol
from agent.policy.document.fields import kind
from agent.policy.document.read_item import read_item
from agent.policy.document.schema import (
    EntitlementItem,
    ExclusionItem,
    LicenseItem,
    PortItem,
    SelectorItem,
    ServiceItem,
)
from agent.policy.document.yamltext import Location, Text
from agent.policy.findings import Findings
from agent.policy.terms.container_selector import ContainerSelector
from agent.policy.values import (
    ANYONE,
    Entitlement,
    Exclusion,
    License,
    Port,
    Principal,
    Selector,
    Service,
    Window,
)


@dataclass(frozen=True, slots=True)
class PartReader:
    """Reads the parts of one file. A part with a mistake is None or left out, and `findings` has the
    reason."""

    text: Text
    findings: Findings

    def service(self, name: str, raw: Any, location: Location) -> Service | None:
        """None where the service has a mistake of its own."""
        what = f"service '{name}'"
        named = self._named(name, what, location)
        item = read_item(ServiceItem, raw, what, self.text, location, self.findings)
        if not isinstance(raw, dict):
            return None
        ports = tuple(self._ports(raw.get("ports"), what, (*location, "ports")))
        owner = tuple(self._selectors(raw.get("owner"), f"{what}, owner", (*location, "owner")))
        if item is None or not named:
            return None
        containers = tuple(each for each in item.at or () if isinstance(each, ContainerSelector))
        networks = tuple(each for each in item.at or () if not isinstance(each, ContainerSelector))
        return Service(
            name=name,
            place=self.text.place(location),
            product=item.product,
            ports=ports,
            at=networks or None,
            at_containers=containers,
            owner=owner,
            on_unresolved=None if item.on_unresolved is None else item.on_unresolved == "allow",
            cuts=item.on_end == "cut",
            drops=item.on_deny == "drop",
        )

    def _ports(self, raw: Any, what: str, location: Location) -> Iterator[Port]:
        for at, entry in self._entries(raw, location):
            item = read_item(PortItem, entry, f"{what}, ports", self.text, at, self.findings)
            if item:
                yield Port(
                    place=self.text.place(at),
                    first=item.port[0],
                    last=item.port[1],
                    port_class=PortClass(item.port_class),
                    protocol=Protocol[item.protocol.upper()],
                    bind=item.bind,
                )

    def principal(self, name: str, raw: Any, location: Location) -> Principal | None:
        """None where one of its selectors has a mistake."""
        what = f"principal '{name}'"
        place = self.text.place(location)
        if name == ANYONE:
            self.findings.error(place, f"{what} is built in", "choose another name")
            return None
        named = self._named(name, what, location)
        if isinstance(raw, dict) and ("relay" in raw or "match" in raw):
            self.findings.error(
                place, f"{what}: a relay is not supported by this version yet", "list its selectors"
            )
            return None
        if not isinstance(raw, list):
            self.findings.error(
                place, f"{what}: expected a list of selectors, found {kind(raw)}", "write - {unit: x.service}"
            )
            return None
        if not raw:
            self.findings.error(
                place, f"{what} is empty: it includes no consumer", "add a selector, or remove it"
            )
            return None
        selectors = tuple(self._selectors(raw, what, location))
        return Principal(name, place, selectors) if named and len(selectors) == len(raw) else None

    def _selectors(self, raw: Any, what: str, location: Location) -> Iterator[Selector]:
        for at, entry in self._entries(raw, location):
            item = read_item(SelectorItem, entry, what, self.text, at, self.findings)
            if item:
                yield Selector(
                    place=self.text.place(at),
                    exe=item.exe,
                    users=tuple(each for each in item.user if isinstance(each, str)),
                    uids=(*item.uid, *(each for each in item.user if isinstance(each, int))),
                    groups=tuple(each for each in item.group if isinstance(each, str)),
                    gids=(*item.gid, *(each for each in item.group if isinstance(each, int))),
                    units=item.unit,
                    cgroups=item.cgroup,
                    containers=item.container,
                    networks=item.cidr,
                )

    def license(self, raw: Any, location: Location) -> License | None:
        """None where the license has a mistake of its own."""
        what = f"license '{raw['id']}'" if isinstance(raw, dict) and "id" in raw else "license"
        item = read_item(LicenseItem, raw, what, self.text, location, self.findings)
        if not isinstance(raw, dict):
            return None
        entitlements = tuple(self._entitlements(raw.get("entitlements"), what, (*location, "entitlements")))
        if item is None:
            return None
        return License(
            id=item.id,
            place=self.text.place(location),
            product=item.product,
            licensee=item.licensee,
            window=Window(item.starts_at, item.expires_at, item.terminates_at or item.expires_at),
            entitlements=entitlements,
        )

    def _entitlements(self, raw: Any, what: str, location: Location) -> Iterator[Entitlement]:
        for at, entry in self._entries(raw, location):
            label = f"{what}, entitlement"
            if isinstance(entry, dict) and "id" in entry:
                label += f" '{entry['id']}'"
            item = read_item(EntitlementItem, entry, label, self.text, at, self.findings)
            if item:
                yield Entitlement(
                    id=item.id,
                    place=self.text.place(at),
                    principals=item.principals,
                    services=item.services,
                    classes=tuple(PortClass(each) for each in item.classes) if item.classes else None,
                    window=Window(item.starts_at, item.expires_at, item.expires_at),
                )

    def exclusion(self, raw: Any, location: Location) -> Exclusion | None:
        """None where the restriction has a mistake."""
        item = read_item(ExclusionItem, raw, "restriction", self.text, location, self.findings)
        if item is None:
            return None
        service, slash, port_class = item.target.partition("/")
        exclusion = Exclusion(self.text.place(location), item.exclude, service)
        if not slash:
            return exclusion
        if port_class not in list(PortClass):
            self.findings.error(
                self.text.place((*location, "target")),
                f"restriction: '{item.target}' is not a valid target",
                "write service, or service/class with the class public, internal or admin",
            )
            return None
        return replace(exclusion, port_class=PortClass(port_class))

    def _named(self, name: str, what: str, location: Location) -> bool:
        if NAME.fullmatch(name):
            return True
        self.findings.error(
            self.text.place(location),
            f"{what} is not a valid name",
            "use letters, digits, _ . - and at most 63 of them",
        )
        return False

    @staticmethod
    def _entries(raw: Any, location: Location) -> Iterator[tuple[Location, Any]]:
        """Entries of a list. If `raw` is not a list, that was reported with the item it belongs to."""
        if isinstance(raw, list):
            for number, entry in enumerate(raw):
                yield (*location, number), entry
