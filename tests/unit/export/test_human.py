import dataclasses
import time
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import pytest

from agent.export.events import consumer_fields, flow_fields, judged, now_text, tuple_fields
from agent.export.human import human_line
from agent.model import Origin, Process, Protocol, to_address
from tests.unit.export.fake_agent import CURL, DENIED, INTERNAL, POSTGRES, flow


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def on_its_day(shown: dict[str, Any], *, color: bool = False) -> str:
    return human_line(shown, color=color, today=datetime.fromisoformat(shown["time"]).date())


def event(kind: str = "violation", **changes: Any) -> dict[str, Any]:
    made = judged(
        kind,
        INTERNAL,
        DENIED,
        consumer_fields(CURL, to_address("127.0.0.1")),
        origin=Origin.LOOPBACK,
        rule={},
        endpoints=tuple_fields(Protocol.TCP, to_address("127.0.0.1"), 40000, to_address("127.0.0.1"), 5432),
        owner=POSTGRES,
    )
    return {**made, "time": "2026-05-01T14:02:11.500000Z", **changes}


def test_a_violation_is_one_line_with_both_processes() -> None:
    assert on_its_day(event()) == (
        "14:02:11 WOULD DENY unlicensed_principal orders-db/internal  curl[4711] uid=1000(ann) "
        "unit=session-2.scope → 127.0.0.1:5432 (owner postgres[812])"
    )


@pytest.mark.parametrize(
    ("kind", "enforced", "said"),
    [
        ("violation", False, "WOULD DENY unlicensed_principal"),
        ("violation", True, "REFUSED unlicensed_principal"),
        ("summary", True, "REFUSED unlicensed_principal"),
        ("cut", True, "CUT unlicensed_principal"),
    ],
)
def test_it_says_whether_anybody_was_refused(kind: str, enforced: bool, said: str) -> None:
    counts = {"attempts": 2, "total": 3, "seconds": 1.0, "flows": 2}
    line = on_its_day(event(kind, enforced=enforced, counts=counts))
    assert line.startswith(f"14:02:11 {said} orders-db/internal  curl")
    assert "DENIED" not in line


def test_the_date_stands_where_it_is_not_todays() -> None:
    assert human_line(event(), today=date(2026, 5, 2)).startswith("2026-05-01 14:02:11 WOULD DENY")


def test_who_has_no_unit_is_known_by_the_rest() -> None:
    process = Process(pid=7, comm="app", exe="/opt/x/app", uid=1000, cgroup="/batch", netns=41)
    said = on_its_day(event(consumer=consumer_fields(process, to_address("::1"))))
    assert "app[7] uid=1000 exe=/opt/x/app cgroup=/batch netns=41 → " in said


@pytest.mark.parametrize(("decision", "there"), [("allowed", True), ("grace", True), ("denied", False)])
def test_who_may_is_told_with_what_lets_him(decision: str, there: bool) -> None:
    rule = {"license": "acme", "entitlement": "use", "principal": "billing"}
    assert ("by acme/use as billing" in on_its_day(event(decision=decision, **rule))) is there


def test_a_bind_that_was_refused_says_so() -> None:
    finding = {"reason": "owner_mismatch", "service": "orders-db", "class": "admin", "explanation": "why"}
    line = on_its_day({"type": "listener", "time": now_text(0), "enforced": True, **finding})
    assert line == "00:00:00 REFUSED OWNER_MISMATCH orders-db/admin  why"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"exe_elsewhere": True}, "(path below another root directory)"),
        ({"in_pid_namespace": True}, "in a pid namespace"),
    ],
)
def test_it_says_where_a_consumer_runs_if_that_is_why(where: dict[str, bool], said: str) -> None:
    consumer = consumer_fields(dataclasses.replace(CURL, **where), to_address("127.0.0.1"))
    assert consumer | where == consumer
    assert f"uid=1000(ann) {said} unit=session-2.scope" in on_its_day(event(consumer=consumer))


def test_a_summary_says_how_often_and_in_how_long() -> None:
    line = on_its_day(event("summary", counts={"attempts": 1204, "total": 1300, "seconds": 10.004}))
    assert line.endswith("×1,204 in 10 s")


def test_a_remote_consumer_is_its_address_and_ipv6_is_in_brackets() -> None:
    line = on_its_day(
        event(
            consumer=consumer_fields(None, to_address("2001:db8::7")),
            owner={},
            tuple=tuple_fields(Protocol.UDP, to_address("2001:db8::7"), 1, to_address("2001:db8::1"), 53),
        )
    )
    assert line.endswith("2001:db8::7 → [2001:db8::1]:53 udp")


def test_a_program_name_can_neither_break_the_line_nor_color_it() -> None:
    evil = Process(pid=7, comm="x\n14:02:12 \x1b[32mALLOWED", uid=1)
    line = on_its_day(event(consumer=consumer_fields(evil, to_address("::1"))))
    assert line.isprintable()
    assert r"x\n14:02:12 \x1b[32mALLOWED[7]" in line


def test_color_is_there_only_where_it_is_asked_for() -> None:
    assert on_its_day(event(), color=True).startswith("14:02:11 \033[31mWOULD DENY")
    assert "\033" not in on_its_day(event())


def test_every_other_type_has_a_line_too() -> None:
    at = now_text(0)
    finding = {"reason": "exposed_port", "service": "orders-db", "class": "admin", "explanation": "why"}
    assert on_its_day({"type": "listener", "time": at, **finding}) == (
        "00:00:00 EXPOSED_PORT orders-db/admin  why"
    )
    undeclared = {"reason": "undeclared_listener", "service": "", "class": "", "explanation": "why"}
    assert on_its_day({"type": "listener", "time": at, **undeclared}) == (
        "00:00:00 UNDECLARED_LISTENER -  why"
    )
    assert on_its_day({"type": "policy", "time": at, "message": "generation 2"}) == (
        "00:00:00 policy  generation 2"
    )
    assert on_its_day({"type": "policy_error", "time": at, "message": "p.yaml:3: a\np.yaml:4: b"}) == (
        "00:00:00 policy_error  p.yaml:3: a (and 1 more line: licet status)"
    )
    assert on_its_day({"type": "stopped", "time": at}) == "00:00:00 stopped"
    assert on_its_day({"type": "missed", "time": at, "count": 3}) == "00:00:00 missed  3"
    opened = {"type": "flow_open", "time": at, **flow_fields(INTERNAL, flow())}
    assert on_its_day(opened).startswith(
        "00:00:00 opened WOULD DENY unlicensed_principal orders-db/internal  curl"
    )
