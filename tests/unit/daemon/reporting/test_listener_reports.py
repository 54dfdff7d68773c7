"""Events about listeners, as they stand in the log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agent.daemon.reporting.console import Console
from agent.daemon.reporting.listener_reports import LISTENERS_OF_ONE, ListenerReports
from agent.daemon.reporting.outlet import Outlet
from agent.daemon.tracking.usage import Attempt
from agent.export.agent_port import JudgedListener
from agent.export.event_log import EventLog
from agent.kernel.tables.rows import Use
from agent.model import (
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
from tests.unit.daemon.worlds import DB, HERE, LOOPBACK, numbered

SERVER = Process(pid=26, start_boot_ns=1, comm="postgres", exe="/usr/bin/postgres", unit="postgresql.service")
OWNED = """
version: 1
services:
  db:
    product: acme
    owner: [{unit: postgresql.service}]
    ports: [{port: 5432, class: internal}]
"""


@dataclass
class Keeper:
    policy: Policy | None = None
    ids: Ids = field(default_factory=lambda: numbered(DB))


class Reports:
    def __init__(self) -> None:
        self.log = EventLog("none", 10_000)
        self.keeper = Keeper()
        self.write = ListenerReports(Outlet(self.log, Console(True)), self.keeper)  # type: ignore[arg-type]

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(self.log.recent(10_000))


@pytest.fixture
def reports() -> Reports:
    return Reports()


def found(
    number: int, uid: int, state: ListenerState = ListenerState.UNDECLARED, service: str = ""
) -> tuple[JudgedListener, ListenerState]:
    listener = Listener(
        protocol=Protocol.TCP, family=2, address=LOOPBACK, port=20_000 + number, netns=1, cookie=number,
        inode=number, v6only=False, owners=(replace(SERVER, uid=uid),), uid=uid,
    )  # fmt: skip
    return JudgedListener(listener, service, "internal" if service else "", (state,), "loopback", ""), state


def test_a_user_with_very_many_listeners_hides_nobody_elses(reports: Reports) -> None:
    crowd = [found(number, 1201) for number in range(3000)]
    reports.write.found([*crowd, *(found(number, 1202) for number in range(2))])
    of_crowd = [event for event in reports.events if event["owner"]["uid"] == 1201]
    assert len(reports.events) - len(of_crowd) == 2
    assert len(of_crowd) == LISTENERS_OF_ONE + 1
    last = of_crowd[-1]
    assert (last["counts"], last["reason"]) == ({"listeners": 2900}, "undeclared_listener")
    assert "and 2,900 more listeners of uid 1201" in last["explanation"]
    assert "port" not in last


def test_a_listener_of_a_strangers_names_the_rule_that_says_who_owns_the_port(reports: Reports) -> None:
    reports.keeper.policy = parse_policy(OWNED)
    reports.write.found([found(1, 1000, ListenerState.OWNER_MISMATCH, "db"), found(2, 1000)])
    mismatch, undeclared = reports.events
    assert (mismatch["reason"], mismatch["service"], mismatch["class"]) == (
        "owner_mismatch",
        "db",
        "internal",
    )
    assert mismatch["rule"].endswith(":6")
    assert "rule" not in undeclared
    assert undeclared["explanation"] == "127.0.0.1:20002 is not declared by any service"


@pytest.mark.parametrize("has_owner", [True, False])
def test_a_refused_bind_says_who_would_have_to_be_an_owner(reports: Reports, has_owner: bool) -> None:
    reports.keeper.policy = parse_policy(OWNED) if has_owner else None
    nginx = Process(pid=9, exe="/usr/sbin/nginx", uid=33, user="www-data")
    reports.write.refused_bind(nginx, HERE, Protocol.TCP, 5432, 1, 7)
    (event,) = reports.events
    assert (event["enforced"], event["port"], event["counts"]) == (True, 5432, {"attempts": 7})
    remedy = "{exe: /usr/sbin/nginx, user: www-data}" if has_owner else "names another owner of it"
    assert remedy in event["explanation"]


def test_an_exposure_names_the_peer_and_the_remedy(reports: Reports) -> None:
    verdict = Verdict(Decision.ALLOWED, Reason.LICENSED, 1)
    use = Use(
        key=b"", attempts=1, verdict=verdict, origin=Origin.REMOTE, protocol=Protocol.TCP, consumer=None,
        comm="", netns=1, source=to_address("203.0.113.9"), source_port=4000, destination=HERE, port=5432,
        first_boot_ns=1, last_boot_ns=1, told=True,
    )  # fmt: skip
    reports.write.exposure(Attempt(use, DB, None, 1, 1))
    (event,) = reports.events
    assert (event["type"], event["reason"], event["service"]) == ("exposure", "exposed_port", "db")
    assert event["consumer"] == {"identity": "address", "address": "203.0.113.9"}
    assert "reached from 203.0.113.9, outside its listening scope; narrow" in event["explanation"]
