from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from agent import abi
from agent.daemon.reporting.reporter import LISTENERS_OF_ONE, Teller
from agent.daemon.tracking.reconcile import Findings
from agent.daemon.tracking.tally import Tally
from agent.daemon.tracking.usage import Attempt
from agent.export.event_log import EventLog
from agent.export.view import JudgedListener
from agent.kernel.tables.rows import Use
from agent.model import (
    Address,
    Decision,
    Listener,
    ListenerState,
    Origin,
    Process,
    Protocol,
    Reason,
    Verdict,
    to_address,
)
from agent.policy.document.load import parse_policy
from agent.policy.tables.ids import Ids
from agent.policy.values import Policy
from tests.unit.daemon.worlds import DB, HERE, LOOPBACK, new_names

SERVER = Process(pid=26, start_boot_ns=1, comm="postgres", exe="/usr/bin/postgres", unit="postgresql.service")


@dataclass
class Numbers:
    """A policy keeper, as far as flows are told by it."""

    ids: Ids = field(default_factory=Ids)
    policy: Policy | None = None


class Listeners:
    def __init__(self) -> None:
        self.violations: Tally[tuple[str, str, str]] = Tally()

    def owner_of(self, netns: int, port: int, address: Address) -> Process | None:
        return SERVER if (netns, port, address) == (1, 5432, HERE) else None


class FromProc:
    def complete(self, seen: Process) -> Process:
        return replace(seen, comm=f"comm-of-{seen.pid}", unit="billing.service")


@pytest.fixture
def log() -> EventLog:
    return EventLog("none", 10)


@pytest.fixture
def teller(log: EventLog) -> Teller:
    keeper = Numbers()
    assert keeper.ids.target(DB) == 1
    return Teller(log, keeper, Listeners(), FromProc(), True)  # type: ignore[arg-type]


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
    teller: Teller, log: EventLog, kind: abi.EventType, name: str
) -> None:
    teller.flow(flow_event(kind), new_names())
    (event,) = log.recent(10)
    assert (event["type"], event["service"], event["class"]) == (name, "db", "internal")
    assert event["consumer"]["comm"] == "comm-of-30"
    assert event["consumer"]["unit"] == "billing.service"


def test_an_owner_that_the_kernel_has_not_met_yet_is_whoever_listens(teller: Teller, log: EventLog) -> None:
    teller.flow(flow_event(abi.EventType.OPEN), new_names())
    teller.flow(flow_event(abi.EventType.CLOSE, owner_pid=27), new_names())
    assert [event["owner"]["pid"] for event in log.recent(10)] == [SERVER.pid, 27]


def test_a_flow_of_a_target_without_a_name_is_not_told(teller: Teller, log: EventLog) -> None:
    teller.flow(flow_event(abi.EventType.OPEN, target=99), new_names())
    assert list(log.recent(10)) == []


FROM_FAR = """
version: 1
services: {db: {product: acme, ports: [{port: 5432, class: internal}]}}
"""


@pytest.mark.parametrize(
    ("decision", "enforced", "told"),
    [
        (Decision.DENIED, True, []),
        (Decision.DENIED, False, ["exposure"]),
        (Decision.ALLOWED, False, ["exposure"]),
    ],
)
def test_who_was_refused_has_not_reached_a_port_from_outside_its_scope(
    teller: Teller, log: EventLog, decision: Decision, enforced: bool, told: list[str]
) -> None:
    teller._keeper.policy = parse_policy(FROM_FAR)  # type: ignore[misc]
    verdict = Verdict(decision, Reason.NO_LICENSE, 1, enforced=enforced)
    source = to_address("203.0.113.9")
    use = Use(
        key=bytes(abi.UseKey(source=abi.RawAddress.of(source))), attempts=1, verdict=verdict,
        origin=Origin.REMOTE, protocol=Protocol.TCP, consumer=None, comm="", netns=1, source=source,
        source_port=4000, destination=HERE, port=5432, first_boot_ns=1, last_boot_ns=1, told=True,
    )  # fmt: skip
    teller._note_exposure(Attempt(use, DB, None, 1, 1))
    assert [event["type"] for event in log.recent(10)] == told


def found(number: int, uid: int) -> tuple[JudgedListener, ListenerState]:
    listener = Listener(
        protocol=Protocol.TCP, family=2, address=LOOPBACK, port=20_000 + number, netns=1, cookie=number,
        inode=number, v6only=False, owners=(replace(SERVER, uid=uid),), uid=uid,
    )  # fmt: skip
    state = ListenerState.UNDECLARED
    return JudgedListener(listener, "", "", (state,), "loopback", ""), state


def test_a_user_with_very_many_listeners_hides_nobody_elses(teller: Teller) -> None:
    log = EventLog("none", 10_000)
    teller._log = log
    crowd = [found(number, 1201) for number in range(3000)]
    teller.findings(Findings(listeners=[*crowd, *(found(number, 1202) for number in range(2))]))
    events = log.recent(10_000)
    of_crowd = [event for event in events if event["owner"]["uid"] == 1201]
    assert len(events) - len(of_crowd) == 2
    assert len(of_crowd) == LISTENERS_OF_ONE + 1
    last = of_crowd[-1]
    assert (last["counts"], last["reason"]) == ({"listeners": 2900}, "undeclared_listener")
    assert "and 2,900 more listeners of uid 1201" in last["explanation"]
    assert "port" not in last
