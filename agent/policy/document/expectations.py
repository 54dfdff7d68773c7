"""Test cases for `licet policy test`: the decisions that an operator expects.

policy: policy.yaml              # beside this file; default: the one in force
at: 2026-12-31T23:59:59Z         # default: now
cases:
  - target: orders-db/internal
    consumer: {unit: billing.service}
    expect: allowed              # allowed, grace, denied; `reason` may be given too
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, model_validator

from agent.model import Address, Container, Decision, PortClass, Reason, Target, to_address
from agent.policy.decision.question import Question
from agent.policy.document.fields import account, cgroup, choice, exe, mistake, one_container, one_unit, text
from agent.policy.document.read_item import read_item
from agent.policy.document.schema import Accounts, Instant, Item, Items
from agent.policy.document.yamltext import Location, Text, Unreadable, read_yaml
from agent.policy.findings import Findings, policy_errors
from agent.policy.values import Place, Policy
from agent.wording import did_you_mean, listed


def _address(value: object) -> Address:
    try:
        return to_address(text(value))
    except ValueError as error:
        raise mistake(f"'{value}' is not a valid address", "write 10.2.0.7 or fd00::7") from error


def _literal_exe(value: object) -> str:
    path = exe(value)
    if any(character in path for character in "*?["):
        raise mistake(f"exe '{path}' is a pattern", "write the path of one program")
    return path


Words = Annotated[str, PlainValidator(text)]


class FileItem(Item):
    policy: Words | None = None
    at: Instant | None = None
    cases: Items


class CaseItem(Item):
    name: Words = ""
    target: Words
    consumer: Any
    expect: Annotated[str, PlainValidator(choice("allowed", "grace", "denied"))]
    reason: Annotated[str, PlainValidator(choice(*(reason.name.lower() for reason in Reason)))] | None = None
    at: Instant | None = None


_Exe = Annotated[str, PlainValidator(_literal_exe)]
_User = Annotated[str | int, PlainValidator(account)]
_Unit = Annotated[str, PlainValidator(one_unit)]
_Cgroup = Annotated[str, PlainValidator(cgroup)]
_Container = Annotated[Container, PlainValidator(one_container)]
_Address = Annotated[Address, PlainValidator(_address)]


class ConsumerItem(Item):
    exe: _Exe = ""
    user: _User | None = None
    uid: _User | None = None
    groups: Accounts = ()
    unit: _Unit = ""
    cgroup: _Cgroup = ""
    container: _Container | None = None
    address: _Address | None = None

    @model_validator(mode="after")
    def _one_of(self) -> ConsumerItem:
        given = self.model_fields_set
        if "address" in given and len(given) > 1:
            raise mistake("a consumer with an address is remote: only its address is known", "keep one")
        for one, other in (
            ("unit", "cgroup"),
            ("container", "unit"),
            ("container", "cgroup"),
            ("user", "uid"),
        ):
            if one in given and other in given:
                raise mistake(f"both {one} and {other}", "keep one")
        return self


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    place: Place
    target: str
    question: Question
    expect: Decision
    reason: Reason | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class CaseFile:
    policy: Path | None
    at: datetime | None
    cases: Sequence[Case]


def load_cases(path: Path) -> CaseFile:
    """Raises PolicyErrors with every mistake in the file."""
    findings = Findings()
    try:
        source = read_yaml(path)
    except Unreadable as error:
        raise policy_errors(error.findings) from error
    item = read_item(FileItem, source.data, "test file", source, (), findings)
    raw = source.data.get("cases") if isinstance(source.data, dict) else None
    cases = tuple(_cases(raw, source, findings)) if isinstance(raw, list) else ()
    findings.raise_errors([str(path)])
    assert item is not None  # else an error was raised above
    return CaseFile(path.parent / item.policy if item.policy else None, item.at, cases)


def _cases(raw: Sequence[Any], source: Text, findings: Findings) -> Iterator[Case]:
    for number, entry in enumerate(raw):
        location: Location = ("cases", number)
        item = read_item(CaseItem, entry, "case", source, location, findings)
        if item is None:
            continue
        consumer = read_item(
            ConsumerItem, item.consumer, "case, consumer", source, (*location, "consumer"), findings
        )
        if consumer is None:
            continue
        yield Case(
            name=item.name or f"case {number + 1}",
            place=source.place(location),
            target=item.target,
            question=_question(consumer),
            expect=Decision[item.expect.upper()],
            reason=Reason[item.reason.upper()] if item.reason else None,
            at=item.at,
        )


def _question(item: ConsumerItem) -> Question:
    return Question(
        exe=item.exe,
        user=item.uid if item.user is None else item.user,
        groups=item.groups,
        unit=item.unit,
        cgroup=item.cgroup,
        container=item.container,
        address=item.address,
    )


def target_named(policy: Policy, written: str) -> Target:
    """service, where it has one class, or service/class. Raises ValueError saying what there is."""
    name, slash, port_class = written.partition("/")
    service = policy.services.get(name)
    if service is None:
        known = listed(policy.services) or "none"
        raise ValueError(
            f"no service '{name}': " + did_you_mean(name, policy.services, f"services are {known}")
        )
    classes: Mapping[str, PortClass] = {each.value: each for each in service.classes}
    if not slash and len(classes) == 1:
        return Target(name, next(iter(classes.values())))
    if port_class not in classes:
        options = " or ".join(f"{name}/{each}" for each in classes)
        raise ValueError(f"'{written}' is not a valid target: write {options}")
    return Target(name, classes[port_class])
