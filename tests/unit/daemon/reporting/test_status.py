"""/v1/status: what it says in each state, and that docs/status.md names each key."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.config import Settings
from agent.daemon.reporting.coverage import CHANGED_ON_ITS_WAY, not_covered
from agent.daemon.reporting.snapshot import with_the_rest
from agent.daemon.reporting.status import StatusPage
from agent.export import licenses, status
from agent.export.licenses import Licenses
from agent.kernel.attach.gates import REWRITTEN
from agent.model import PortClass, Target
from tests.unit.daemon.worlds import DB, numbered
from tests.unit.export.fake_agent import NOW

PAGE = Path(__file__).parents[4] / "docs" / "status.md"
ADMIN = Target("db", PortClass.ADMIN)


class Part:
    """Whatever a test says it knows."""

    def __init__(self, **known: Any) -> None:
        self.__dict__.update(known)


def answers(value: Any) -> Any:
    return lambda *_: value


def page(**changes: Any) -> StatusPage:
    """Of an agent that judges nothing."""
    no_troubles = dict.fromkeys(("policy", "policy_watch", "state", "pins", "clock"), "")
    keeper = Part(
        policy=None, compiled=None, facts=None, generation=0, sha256="", loaded_unix_s=0.0, last_error="",
        is_last_good=False, failures=0, unnamed=0, ids=numbered(DB), warnings=(),
        documents=Part(findings=(), moment=NOW),
    )  # fmt: skip
    known = {
        "settings": Settings(),
        "manifest": Part(
            hooks={"connect": "cgroup-link", "accept": "none"},
            refused_rungs={"fexit": "no BTF"},
            cgroup="/sys/fs/cgroup",
            bcc="0.29",
        ),
        "pins": Part(base=Path("/sys/fs/bpf/licet"), programs=answers(["track_flows"])),
        "keeper": keeper,
        "counters": Part(opened_closed=answers({1: (5, 3)}), closed_unseen=answers(1)),
        "listening": Part(unserved=[]),
        "containers": Part(
            roots=Part(found=answers({"docker": ""})), cri=Part(about=answers({"socket": ""}))
        ),
        "gates": Part(status=answers([]), missing={}, datagrams=Part(status=answers([]))),
        "troubles": Part(now=answers(no_troubles), why_not_ready=answers(""), not_ready_since=answers(None)),
        "snapshots": Part(
            enforcing=answers({}), losses=answers({}), maps=answers({}), active=answers({DB: 2})
        ),
        "licenses": Part(now=answers(Licenses())),
        **changes,
    }
    return StatusPage(**known)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other tool has programs on this host."""
    monkeypatch.setattr("agent.daemon.reporting.status.other_programs.behind", lambda *_: [])


def fields_of(kind: Any) -> dict[str, Any]:
    """Of a TypedDict, also where it is one of several, or in a list or mapping; empty: no record."""
    if typing.is_typeddict(kind):
        return typing.get_type_hints(kind)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(filter(None, map(fields_of, typing.get_args(kind))), {})
    return fields_of(args[-1]) if (args := typing.get_args(kind)) else {}


def rows_of_the_page() -> dict[str, str]:
    """By key, the row that describes it."""
    section = PAGE.read_text().partition("## /v1/status\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*`) \| (.*) \|$", section, re.MULTILINE)
    return {key: text for keys, text in rows for key in re.findall(r"`(\w+)`", keys)}


def test_the_answer_has_the_keys_of_its_type_and_no_others() -> None:
    answer = page().now()
    assert list(answer) == list(fields_of(status.Status))
    for key, kind in fields_of(status.Status).items():
        value = answer[key]  # type: ignore[literal-required]
        if fields_of(kind) and isinstance(value, dict) and "list" not in str(typing.get_origin(kind)):
            of_mapping = typing.get_origin(kind) is not None and issubclass(
                typing.get_origin(kind),
                Mapping,  # type: ignore[arg-type]
            )
            for record in value.values() if of_mapping else (value,):
                assert list(record) == list(fields_of(kind)), key


def test_the_page_names_each_key_and_no_other() -> None:
    assert rows_of_the_page().keys() == fields_of(status.Status).keys()


@pytest.mark.parametrize("key", [key for key, kind in fields_of(status.Status).items() if fields_of(kind)])
def test_the_page_names_what_is_in_each_record(key: str) -> None:
    named = set(re.findall(r"`(\w+)`", rows_of_the_page()[key]))
    assert fields_of(fields_of(status.Status)[key]).keys() <= named


@pytest.mark.parametrize("kind", [licenses.LicenseFields, licenses.RevocationFields, licenses.LicensesFields])
def test_the_page_names_what_is_told_of_licenses(kind: Any) -> None:
    page = PAGE.read_text()
    named = set(re.findall(r"`(\w+)`", page.partition("## Licenses\n")[2].partition("\n## ")[0]))
    assert set(fields_of(kind)) <= named | set(re.findall(r"`(\w+)`", rows_of_the_page()["licenses"]))


def test_an_agent_without_a_policy_observes() -> None:
    answer = page().now()
    assert (answer["mode"], answer["ready"], answer["not_ready"]) == ("observe", True, None)
    assert answer["policy"]["files"] == []
    assert answer["policy"]["loaded_at"] is None
    assert answer["flows"] == {"open": 2, "opened": 5, "closed": 3, "closed_by_reconciliation": 1}
    assert answer["scope"]["namespaces"] == "all"


@pytest.mark.parametrize(("enforcing", "mode"), [({DB: False}, "observe"), ({DB: True}, "enforce")])
def test_one_target_that_enforces_makes_the_agent_one_that_does(
    enforcing: dict[Target, bool], mode: str
) -> None:
    snapshots = Part(enforcing=answers(enforcing), losses=answers({}), maps=answers({}), active=answers({}))
    assert page(snapshots=snapshots).now()["mode"] == mode


@pytest.mark.parametrize(("since", "told"), [(None, None), (1_795_000_000.0, "2026-11-18T11:06:40")])
def test_why_it_is_not_ready_and_since_when(since: float | None, told: str | None) -> None:
    troubles = Part(
        now=answers({"state": "disk full", "clock": ""}),
        why_not_ready=answers("disk full"),
        not_ready_since=answers(since),
    )
    answer = page(troubles=troubles).now()
    assert not answer["ready"]
    assert answer["troubles"] == {"state": "disk full"}
    assert answer["not_ready"] is not None
    assert answer["not_ready"]["reason"] == "disk full"
    assert (answer["not_ready"]["since"] or "")[:19] == (told or "")


def test_a_hook_says_where_it_is_attached_and_what_was_refused() -> None:
    connect, accept = page().now()["hooks"]
    assert (connect["attached_to"], connect["note"]) == ("/sys/fs/cgroup", "")
    assert accept["note"].startswith("fexit: no BTF; the process that accepts is not named")


def test_a_program_of_another_tool_behind_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "agent.daemon.reporting.status.other_programs.behind",
        lambda pins, cgroup, hook: ["cilium"] if hook == "connect" else [],
    )
    connect, _ = page().now()["hooks"]
    assert connect["note"].startswith("runs behind: cilium; a destination that is changed there")


def test_what_a_kernel_lacks_is_not_covered_there() -> None:
    more = {one["what"] for one in not_covered({REWRITTEN})} - {one["what"] for one in not_covered(())}
    assert more == {CHANGED_ON_ITS_WAY[0]}


def test_consumers_of_a_service_add_up_to_its_violations() -> None:
    by_consumer = {("db", "psql"): 3, ("db", "other"): 1, ("web", "curl"): 2}
    violations = {(DB, "no_license"): 5, (ADMIN, "no_license"): 2}
    found = with_the_rest(by_consumer, violations)
    assert found == {("db", "psql"): 3, ("db", "other"): 4, ("web", "curl"): 2}
