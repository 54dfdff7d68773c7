"""Events about what was judged, as they stand in the log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agent import abi
from agent.daemon.enforcement.flow_cutter import Cut
from agent.daemon.reporting.console import Console
from agent.daemon.reporting.outlet import Outlet
from agent.daemon.reporting.reporter import Reporter
from agent.daemon.tracking.adoption import Adopted
from agent.daemon.tracking.usage import Attempt
from agent.export.event_log import EventLog
from agent.export.events import Event
from agent.kernel.tables.rows import Use
from agent.model import Address, Decision, Flow, Origin, Process, Protocol, Reason, Verdict, to_address
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import Compiled, compile_policy
from agent.policy.tables.ids import Ids
from tests.unit.daemon.tracking.test_flows import FACTS
from tests.unit.daemon.worlds import DB, ELSEWHERE, HERE, new_names, numbered

SERVER = Process(pid=26, start_boot_ns=1, comm="postgres", exe="/usr/bin/postgres", unit="postgresql.service")
PSQL = Process(pid=30, start_boot_ns=3, comm="psql", exe="/usr/bin/psql", uid=1000)
DENIED = Verdict(Decision.DENIED, Reason.UNLICENSED_PRINCIPAL, 1)
UNRESOLVED = Verdict(Decision.ALLOWED, Reason.UNRESOLVED, 1)
LICENSED = """
version: 1
services: {db: {product: acme, ports: [{port: 5432, class: internal}]}}
principals: {billing: [{uid: 1000}]}
licenses:
  - id: acme
    product: acme
    entitlements: [{id: use, classes: [internal], principals: [billing]}]
"""


@dataclass
class Keeper:
    ids: Ids = field(default_factory=lambda: numbered(DB))
    compiled: Compiled | None = None


class Listeners:
    def owner_of(self, netns: int, port: int, address: Address) -> Process | None:
        return SERVER if (netns, port, address) == (1, 5432, HERE) else None


class FromProc:
    def complete(self, seen: Process) -> Process:
        return replace(seen, comm=f"comm-of-{seen.pid}", unit="billing.service")


@dataclass
class Lines(Console):
    """For people, as they would be asked for."""

    said: list[str] = field(default_factory=list)

    def event(self, event: Event) -> None:
        self.said.append(event["type"])


class Reports:
    def __init__(self) -> None:
        self.log, self.lines, self.keeper = EventLog("none", 100), Lines(), Keeper()
        outlet = Outlet(self.log, self.lines)
        self.write = Reporter(outlet, self.keeper, Listeners(), FromProc(), new_names())  # type: ignore[arg-type]

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(self.log.recent(100))


@pytest.fixture
def reports() -> Reports:
    return Reports()


def attempt(
    verdict: Verdict = DENIED,
    consumer: Process | None = PSQL,
    *,
    attempts: int = 1,
    use_of: abi.UseOf = abi.UseOf.ONE,
    is_first: bool = True,
    new: int = 1,
    since_ns: int = 0,
    resolved: Verdict | None = None,
) -> Attempt:
    use = Use(
        key=bytes(abi.UseKey(source=abi.RawAddress.of(ELSEWHERE))), attempts=attempts, verdict=verdict,
        origin=Origin.LOOPBACK if consumer else Origin.REMOTE, protocol=Protocol.TCP, consumer=consumer,
        comm="", netns=1, source=ELSEWHERE, source_port=4000, destination=HERE, port=5432, first_boot_ns=1,
        last_boot_ns=1, told=True, use_of=use_of,
    )  # fmt: skip
    return Attempt(use, DB, consumer, new, since_ns, is_first, resolved)


def flow(number: int, **changes: Any) -> Flow:
    one = Flow(
        cookie=number, target=1, consumer=PSQL, consumer_address=HERE, consumer_port=40_000 + number,
        address=HERE, port=5432, owner=SERVER, acceptor=None, verdict=DENIED, origin=Origin.LOOPBACK,
        protocol=Protocol.TCP, opened_boot_ns=1, established=True, pre_existing=True, netns=1,
    )  # fmt: skip
    return replace(one, **changes)


def flow_event(kind: abi.EventType, *, target: int = 1, owner_pid: int = 0) -> abi.FlowEvent:
    return abi.FlowEvent(
        header=abi.EventHeader(type=kind),
        cookie=77,
        flow=abi.Flow(
            consumer=abi.Identity(pid=30, uid=1000, netns=1),
            owner=abi.Identity(pid=owner_pid),
            state=abi.FlowState.OPEN,
            verdict=abi.Verdict(target=target, origin=Origin.LOOPBACK, protocol=6),
            local=abi.RawAddress.of(HERE),
            local_port=40000,
            remote=abi.RawAddress.of(HERE),
            remote_port=5432,
        ),
    )


@pytest.mark.parametrize(
    ("kind", "name"), [(abi.EventType.OPEN, "flow_open"), (abi.EventType.CLOSE, "flow_close")]
)
def test_a_flow_is_told_with_what_is_known_of_its_consumer(
    reports: Reports, kind: abi.EventType, name: str
) -> None:
    reports.write.flow(flow_event(kind))
    (event,) = reports.events
    assert (event["type"], event["service"], event["class"]) == (name, "db", "internal")
    assert event["consumer"]["comm"] == "comm-of-30"
    assert event["consumer"]["unit"] == "billing.service"


def test_an_owner_that_the_kernel_has_not_met_yet_is_whoever_listens(reports: Reports) -> None:
    reports.write.flow(flow_event(abi.EventType.OPEN))
    reports.write.flow(flow_event(abi.EventType.CLOSE, owner_pid=27))
    assert [event["owner"]["pid"] for event in reports.events] == [SERVER.pid, 27]


def test_a_flow_of_a_target_without_a_name_is_not_told(reports: Reports) -> None:
    reports.write.flow(flow_event(abi.EventType.OPEN, target=99))
    assert reports.events == []


def test_a_first_attempt_has_its_consumer_the_owner_and_the_end(reports: Reports) -> None:
    reports.write.first_attempt(attempt())
    (event,) = reports.events
    assert (event["type"], event["decision"], event["reason"]) == (
        "violation",
        "denied",
        "unlicensed_principal",
    )
    assert (event["consumer"]["pid"], event["owner"]["unit"]) == (30, "postgresql.service")
    assert event["tuple"] == {
        "protocol": "tcp",
        "dst": "10.0.0.1",
        "dport": 5432,
        "src": "10.9.9.9",
        "sport": 4000,
    }
    assert "resolved" not in event


def test_people_are_told_of_denials_and_not_of_each_use(reports: Reports) -> None:
    reports.write.first_attempt(attempt())
    reports.write.first_attempt(attempt(Verdict(Decision.ALLOWED, Reason.LICENSED, 1)))
    reports.write.summary(attempt(Verdict(Decision.ALLOWED, Reason.LICENSED, 1), is_first=False), 1)
    reports.write.summary(attempt(is_first=False), 1)
    assert [event["type"] for event in reports.events] == ["violation", "use", "summary", "summary"]
    assert reports.lines.said == ["violation", "summary"]


def test_what_an_unresolved_attempt_would_have_met_stands_beside_it_with_its_license(
    reports: Reports,
) -> None:
    reports.keeper.compiled = compile_policy(parse_policy(LICENSED), FACTS, reports.keeper.ids)
    (grant,) = reports.keeper.compiled.tables.grants
    later = Verdict(Decision.ALLOWED, Reason.LICENSED, 1, grant)
    reports.write.first_attempt(attempt(UNRESOLVED, resolved=later))
    (event,) = reports.events
    assert event["reason"] == "unresolved"
    assert event["resolved"] == {
        "decision": "allowed",
        "reason": "licensed",
        "license": "acme",
        "entitlement": "use",
        "principal": "billing",
    }


def test_a_summary_says_how_many_in_how_long(reports: Reports) -> None:
    reports.write.summary(attempt(is_first=False, attempts=12, new=5, since_ns=10**9), 4 * 10**9)
    (event,) = reports.events
    assert (event["type"], event["counts"]) == ("summary", {"attempts": 5, "total": 12, "seconds": 3.0})


def test_a_row_younger_than_the_look_has_no_time_before_it(reports: Reports) -> None:
    reports.write.summary(attempt(since_ns=5 * 10**9), 4 * 10**9)
    assert reports.events[0]["counts"]["seconds"] == 0


def test_a_first_attempt_that_the_ring_lost_is_told_as_one(reports: Reports) -> None:
    reports.write.summary(attempt(is_first=True), 1)
    assert reports.events[0]["type"] == "violation"


@pytest.mark.parametrize(
    ("use_of", "consumer", "identity"),
    [
        (abi.UseOf.ONE, PSQL, "process"),
        (abi.UseOf.MANY, PSQL, "user"),
        (abi.UseOf.MANY, None, "network"),
        (abi.UseOf.OTHERS, None, "others"),
    ],
)
def test_a_row_of_many_names_what_they_have_in_common(
    reports: Reports, use_of: abi.UseOf, consumer: Process | None, identity: str
) -> None:
    reports.write.first_attempt(attempt(consumer=consumer, attempts=9, use_of=use_of))
    (event,) = reports.events
    assert event["consumer"]["identity"] == identity
    assert ("sport" in event["tuple"]) == (use_of is abi.UseOf.ONE)


def test_a_pool_of_connections_is_one_event(reports: Reports) -> None:
    other = replace(PSQL, pid=31)
    pool = [Adopted(DB, flow(number)) for number in range(3)]
    reports.write.adopted([*pool, Adopted(DB, flow(9, consumer=other))])
    first, second = reports.events
    assert (first["pre_existing"], first["counts"]) == (True, {"attempts": 3, "total": 3})
    assert (second["consumer"]["pid"], second["counts"]["attempts"]) == (31, 1)


def test_connections_that_are_judged_unlike_are_two_events(reports: Reports) -> None:
    allowed = Verdict(Decision.ALLOWED, Reason.LICENSED, 1)
    reports.write.adopted([Adopted(DB, flow(1)), Adopted(DB, flow(2, verdict=allowed))])
    assert [event["type"] for event in reports.events] == ["violation", "use"]


def test_flows_of_one_consumer_that_are_cut_together_are_one_event(reports: Reports) -> None:
    far = [flow(n, consumer=None, consumer_address=to_address(f"10.1.1.{n}")) for n in (1, 2)]
    reports.write.cut([*(Cut(DB, flow(number)) for number in range(4)), *(Cut(DB, one) for one in far)])
    assert [event["counts"] for event in reports.events] == [{"flows": 4}, {"flows": 1}, {"flows": 1}]
    assert reports.events[0]["consumer"]["comm"] == "comm-of-30"
    assert reports.events[1]["consumer"] == {"identity": "address", "address": "10.1.1.1"}
