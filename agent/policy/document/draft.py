"""Merges the sections of all files. A name defined twice is reported with both places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agent.model import Mode
from agent.policy.document.fields import kind
from agent.policy.document.parts import PartReader
from agent.policy.document.schema import NOT_YET_SECTIONS
from agent.policy.document.yamltext import Location, Text
from agent.policy.findings import Findings
from agent.policy.values import (
    Exclusion,
    License,
    Place,
    Principal,
    Service,
    UndeclaredListeners,
)
from agent.wording import did_you_mean

VERSION = 1
SECTIONS = (
    "version",
    "services",
    "principals",
    "licenses",
    "restrictions",
    "enforcement",
    "undeclared_listeners",
)


@dataclass(slots=True)
class Draft:
    """The policy as far as it was read. None stands for a part whose own mistakes are already reported, so
    that its name is not also reported as undefined."""

    findings: Findings
    services: dict[str, Service | None] = field(default_factory=dict)
    principals: dict[str, Principal | None] = field(default_factory=dict)
    products: set[str] = field(default_factory=set)
    licenses: list[License] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    enforcement: dict[str, tuple[Mode, Place]] = field(default_factory=dict)
    undeclared_listeners: UndeclaredListeners | None = None
    _places: dict[tuple[str, str], Place] = field(default_factory=dict)

    def add(self, text: Text) -> None:
        """Adds the content of one file."""
        if text.data is None:
            self.findings.warn(Place(text.file), "the file is empty", "remove it, or write a policy")
            return
        if not isinstance(text.data, dict):
            self.findings.error(
                text.place(()),
                f"expected sections, found {kind(text.data)}",
                f"sections are {', '.join(SECTIONS)}",
            )
            return
        self._version(text)
        parts = PartReader(text, self.findings)
        for section in text.data:
            if section not in SECTIONS:
                self._unknown_section(text, section)
        for name, raw in self._mapping(text, "services"):
            if self._first("service", name, text.place(("services", name))):
                self.services[name] = parts.service(name, raw, ("services", name))
                if isinstance(raw, dict) and isinstance(raw.get("product"), str):
                    self.products.add(raw["product"])
        for name, raw in self._mapping(text, "principals"):
            if self._first("principal", name, text.place(("principals", name))):
                self.principals[name] = parts.principal(name, raw, ("principals", name))
        for location, raw in self._list(text, "licenses"):
            license_ = parts.license(raw, location)
            if license_ and self._first("license", license_.id, license_.place):
                self.licenses.append(license_)
        for location, raw in self._list(text, "restrictions"):
            exclusion = parts.exclusion(raw, location)
            if exclusion:
                self.exclusions.append(exclusion)
        for name, raw in self._mapping(text, "enforcement"):
            self._enforcement(text, name, raw)
        self._undeclared_listeners(text)

    def _version(self, text: Text) -> None:
        version = text.data.get("version")
        if version is None:
            self.findings.error(
                text.place(()), "version is missing", f"start the file with `version: {VERSION}`"
            )
        elif version != VERSION or isinstance(version, bool):
            self.findings.error(
                text.place(("version",)),
                f"version: {kind(version)} is not known",
                f"this licet reads {VERSION}",
            )

    def _unknown_section(self, text: Text, section: str) -> None:
        place = text.place((section,))
        if section in NOT_YET_SECTIONS:
            self.findings.error(
                place, f"'{section}' is not supported by this version yet", NOT_YET_SECTIONS[section]
            )
        else:
            remedy = did_you_mean(section, SECTIONS, f"sections are {', '.join(SECTIONS)}")
            self.findings.error(place, f"unknown key '{section}'", remedy)

    def _enforcement(self, text: Text, name: str, mode: Any) -> None:
        place = text.place(("enforcement", name))
        if mode not in list(Mode):
            self.findings.error(
                place,
                f"enforcement of '{name}': {kind(mode)} is not a valid mode",
                "write observe or enforce",
            )
        elif self._first("enforcement of", name, place):
            self.enforcement[name] = (Mode(mode), place)

    def _undeclared_listeners(self, text: Text) -> None:
        if "undeclared_listeners" not in text.data:
            return
        place = text.place(("undeclared_listeners",))
        value = text.data["undeclared_listeners"]
        if value not in list(UndeclaredListeners):
            self.findings.error(
                place,
                f"undeclared_listeners: {kind(value)} is not one of ignore, report, violation",
                "write ignore, report or violation",
            )
        elif self._first("the setting", "undeclared_listeners", place):
            self.undeclared_listeners = UndeclaredListeners(value)

    def _mapping(self, text: Text, section: str) -> Iterator[tuple[str, Any]]:
        raw = text.data.get(section)
        if isinstance(raw, dict):
            yield from raw.items()
        elif section in text.data:
            self.findings.error(
                text.place((section,)),
                f"{section}: expected names, found {kind(raw)}",
                "write `name: …`, or remove it",
            )

    def _list(self, text: Text, section: str) -> Iterator[tuple[Location, Any]]:
        raw = text.data.get(section)
        if isinstance(raw, list):
            for number, entry in enumerate(raw):
                yield (section, number), entry
        elif section in text.data:
            self.findings.error(
                text.place((section,)),
                f"{section}: expected a list, found {kind(raw)}",
                "put each entry on a line of its own, after a -",
            )

    def _first(self, what: str, name: str, place: Place) -> bool:
        """True if the name is new. Otherwise adds an error with both places, and returns False."""
        before = self._places.setdefault((what, name), place)
        if before is place:
            return True
        self.findings.error(place, f"{what} '{name}' is already defined at {before}", "rename or remove one")
        return False
