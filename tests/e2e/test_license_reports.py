"""Each license is told in time: metrics, events, `licet licenses`, /v1/licenses, and once over restarts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest

from agent.license.report import State
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import matching, told
from tests.fixtures.shifted_clock import ShiftedClock, store_right_time
from tests.fixtures.vendor import REVOCATIONS, Vendor, VendorKey, stamp
from tests.fixtures.waiting import wait_for

PORT = 7712
POLICY = f"""\
version: 1
services:
  orders: {{product: acme-orders, ports: [{{port: {PORT}, class: internal}}]}}
principals: {{billing: [{{uid: 1001}}]}}
licenses:
  - {{id: written, product: acme-orders, entitlements: [{{id: app, principals: [billing]}}]}}
"""
DAY_S = 86400
ACME = Vendor(keys=[VendorKey(1), VendorKey(2)])
FORGER = Vendor(keys=[VendorKey(3)])
APP = [{"id": "app", "classes": ["internal"], "principals": ["billing"]}]
QUIET = {"notice_days": [1]}


@pytest.fixture(scope="module")
def clock(shared_lab: Lab) -> ShiftedClock:
    return ShiftedClock(shared_lab.directory)


@pytest.fixture(scope="module")
def running(shared_lab: Lab, clock: ShiftedClock) -> Iterator[RunningAgent]:
    shared_lab.serve(shared_lab.host, "127.0.0.1", PORT)
    with shared_lab.agent(POLICY, start=False) as agent:
        for key in ACME.keys:
            ACME.pin(agent.files.keys, key)
        agent.files.licenses.mkdir()
        store_right_time(agent)
        clock.start(agent)
        yield agent


@pytest.fixture
def agent(running: RunningAgent) -> RunningAgent:
    """Without documents; each test names its own."""
    for path in running.files.licenses.iterdir():
        path.unlink()
    wait_for(lambda: not documents(running), "no document is left")
    return running


def put(agent: RunningAgent, name: str, content: bytes) -> None:
    path = agent.files.licenses / name
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def license_(name: str, **fields: object) -> bytes:
    return ACME.sign(ACME.license(**{"id": name, "entitlements": APP, **QUIET, **fields}))


def revoking(name: str, serial: int) -> bytes:
    listed = [{"id": name, "serials": "all"}]
    return ACME.sign(ACME.revocations(serial=serial, licenses=listed), kind=REVOCATIONS)


def documents(agent: RunningAgent) -> list[dict[str, Any]]:
    return [one for one in agent.control("GET", "/v1/licenses")["licenses"] if one["signed"]]


def row(agent: RunningAgent, file: str, *, is_copy: bool = False) -> dict[str, Any]:
    """What is known of a file; {} if there is none."""
    found = (one for one in documents(agent) if (one["file"], one["is_copy"]) == (file, is_copy))
    return next(found, {})


def in_state(agent: RunningAgent, file: str, state: str) -> dict[str, Any]:
    wait_for(lambda: row(agent, file).get("state") == state, f"{file} is {state}")
    return row(agent, file)


def states_of(agent: RunningAgent, name: str) -> dict[str, float]:
    """licet_license_state of a license, those that are not 0."""
    return {
        dict(labels)["state"]: value
        for (metric, labels), value in agent.metrics().items()
        if metric == "licet_license_state" and dict(labels)["license"] == name and value
    }


def lines(agent: RunningAgent) -> list[str]:
    return agent.licet("licenses").stdout.splitlines()


HALF_S = DAY_S / 2
DATES: dict[str, dict[str, object]] = {
    "grace": {
        "issued_at": stamp(-9 * DAY_S),
        "expires_at": stamp(-2 * DAY_S),
        "terminates_at": stamp(9 * DAY_S + HALF_S),
    },
    "expired": {"issued_at": stamp(-9 * DAY_S), "expires_at": stamp(-3 * DAY_S - HALF_S)},
    "not_yet_valid": {"starts_at": stamp(2 * DAY_S + HALF_S)},
    "node_mismatch": {"node_lock": {"any_of": ["hk:" + "0" * 64]}},
    "valid": {"expires_at": stamp(33 * DAY_S + HALF_S), "terminates_at": stamp(64 * DAY_S + HALF_S)},
}
SAID = {
    "grace": "grace, ends in 9 days (",
    "expired": "expired, ended 3 days ago (",
    "not_yet_valid": "not_yet_valid, begins in 2 days (",
    "node_mismatch": "node_mismatch: it is locked to other hosts",
    "valid": "valid, expires in 33 days (",
    "revoked": "revoked: serial 1 is on a revocation list",
    "superseded": "superseded: license 'of-superseded-new' supersedes it",
}
SIGNED = (*DATES, "revoked", "superseded")


def put_in_state(agent: RunningAgent, name: str, state: str) -> None:
    """`NAME.json` gets this state, for a license that the vendor has signed."""
    if state == "superseded":
        put(agent, f"{name}.json", license_(name))
        put(agent, f"{name}-new.json", license_(f"{name}-new", supersedes=[name]))
    elif state == "revoked":
        put(agent, f"{name}.json", license_(name))
        put(agent, "r.json", revoking(name, serial=1))
    else:
        put(agent, f"{name}.json", license_(name, **DATES[state]))


@pytest.mark.parametrize("state", SIGNED)
def test_each_state_of_a_signed_license_is_told_everywhere(agent: RunningAgent, state: str) -> None:
    name = f"of-{state.replace('_', '-')}"
    put_in_state(agent, name, state)
    found = in_state(agent, f"{name}.json", state)
    holds = state in ("valid", "grace")
    assert (found["verified"], found["in_force"], found["kind"]) == (True, holds, "production")
    assert states_of(agent, name) == {state: 1}
    assert agent.total("licet_license_valid", license=name) == holds
    assert agent.total("licet_license_documents", state=state) == 1
    event = told(agent, {"type": "license", "license": name, "state": state})
    assert (event["verified"], event["serial"], event["in_force"]) == (True, 1, holds)
    assert (event["severity"] == "info") == (state in ("valid", "not_yet_valid", "superseded"))
    (line,) = [one for one in lines(agent) if one.startswith(f"{name} serial 1 (Acme, production) ")]
    assert line.partition("production) ")[2].startswith(SAID[state])
    assert line in agent.licet("status").stdout
    assert agent.get("/readyz")[0] == 200


BAD = {
    "malformed": b'{"payload": "',
    "unknown_key": FORGER.sign(FORGER.license(id="forged")),
    "bad_signature": FORGER.sign(FORGER.license(id="forged"), keyids=[ACME.keys[0].kid]),
}


@pytest.mark.parametrize("state", BAD)
def test_a_file_that_nobody_signed_gives_no_name(agent: RunningAgent, state: str) -> None:
    file = f"{state}.json"
    put(agent, file, BAD[state])
    found = in_state(agent, file, state)
    assert (found["verified"], found["in_force"], found["extensions"]) == (False, False, {})
    assert agent.total("licet_license_documents", state=state) == 1
    event = told(agent, {"type": "license", "file": file, "state": state})
    assert (event["verified"], event["severity"]) == (False, "warning")
    assert "license" not in event
    (line,) = [one for one in lines(agent) if one.startswith(file)]
    assert state in line
    assert state == "malformed" or line.startswith(f"{file}, not verified, says: forged serial 1")
    assert not any(dict(labels).get("license") == "forged" for _, labels in agent.metrics())
    assert agent.get("/readyz")[0] == 200


def test_every_state_has_its_series_from_the_start(agent: RunningAgent) -> None:
    found = {
        dict(labels)["state"]: value
        for (name, labels), value in agent.metrics().items()
        if name == "licet_license_documents"
    }
    assert found == {state.value: 0 for state in State}


def test_a_strict_document_is_told_while_the_wall_clock_is_a_day_behind(
    agent: RunningAgent, clock: ShiftedClock
) -> None:
    put(agent, "strict.json", license_("strict", clock="strict"))
    in_state(agent, "strict.json", "valid")
    clock.set(-25 * 3600)
    try:
        in_state(agent, "strict.json", "clock_rollback")
        told(agent, {"type": "license", "license": "strict", "state": "clock_rollback"})
        wait_for(lambda: states_of(agent, "strict") == {"clock_rollback": 1}, "the metric says so")
        assert agent.get("/readyz")[0] == 200
    finally:
        clock.set(0)
    in_state(agent, "strict.json", "valid")


@pytest.mark.parametrize("restarts", [False, True])
def test_a_copy_in_force_is_told_everywhere(agent: RunningAgent, clock: ShiftedClock, restarts: bool) -> None:
    name = f"copied-{restarts}"
    put(agent, f"{name}.json", license_(name, serial=3))
    in_state(agent, f"{name}.json", "valid")
    assert agent.total("licet_license_copy_in_force", license=name) == 0
    put(agent, f"{name}.json", b"half a fi")
    in_state(agent, f"{name}.json", "malformed")
    if restarts:
        agent.terminate()
        clock.start(agent)
    copy = row(agent, f"{name}.json", is_copy=True)
    assert (copy["id"], copy["serial"], copy["state"], copy["in_force"]) == (name, 3, "valid", True)
    assert agent.total("licet_license_copy_in_force", license=name) == 1
    assert agent.total("licet_license_serial", license=name) == 3
    assert agent.total("licet_license_valid", license=name) == 1
    event = told(agent, {"type": "license", "license": name, "is_copy": True})
    assert (event["state"], event["in_force"], event["severity"]) == ("valid", True, "warning")
    told(agent, {"type": "license", "file": f"{name}.json", "state": "malformed"})
    (line,) = [one for one in lines(agent) if one.startswith(f"{name} serial 3")]
    assert line.endswith(f"; it stays in force while {name}.json does not hold")


def test_a_removed_file_is_a_license_withdrawn(agent: RunningAgent) -> None:
    put(agent, "gone.json", license_("gone"))
    in_state(agent, "gone.json", "valid")
    told(agent, {"type": "license", "license": "gone", "state": "valid"})
    (agent.files.licenses / "gone.json").unlink()
    event = told(agent, {"type": "license", "license": "gone", "state": "withdrawn"})
    assert (event["previous"], event["severity"]) == ("valid", "warning")
    assert not any(dict(labels).get("license") == "gone" for _, labels in agent.metrics())


def test_times_are_timestamps_and_perpetual_is_infinite(agent: RunningAgent) -> None:
    put(agent, "ever.json", license_("ever", expires_at=None))
    put(
        agent,
        "year.json",
        license_("year", expires_at="2097-01-01T00:00:00Z", terminates_at="2097-02-01T00:00:00Z"),
    )
    in_state(agent, "year.json", "valid")
    names = ("licet_license_expiry_timestamp_seconds", "licet_license_termination_timestamp_seconds")
    assert [agent.total(name, license="ever") for name in names] == [float("inf")] * 2
    assert [agent.total(name, license="year") for name in names] == [4007836800, 4010515200]
    assert agent.total(names[0], license="written") == float("inf")


def test_a_notice_is_told_once_over_restarts(agent: RunningAgent, clock: ShiftedClock) -> None:
    put(agent, "soon.json", license_("soon", expires_at=stamp(5 * DAY_S), notice_days=[60, 30, 14, 7, 1]))
    in_state(agent, "soon.json", "valid")
    notice = {"type": "license", "license": "soon", "notice.of": "expiry"}
    assert told(agent, notice)["notice"] == {"of": "expiry", "days": 7}  # the nearest
    before = matching(agent, {"type": "license"})
    for _ in range(2):
        agent.terminate()
        clock.start(agent)
        put(agent, "mark.json", license_("mark", serial=len(agent.events())))
        in_state(agent, "mark.json", "valid")
        seen = len(matching(agent, {"type": "license", "license": "mark"}))
        wait_for(lambda: len(matching(agent, {"type": "license", "license": "mark"})) >= 1, "a look was told")
        assert seen <= 2
    more = matching(agent, {"type": "license"})[len(before) :]
    assert {event["license"] for event in more} == {"mark"}


def test_expiry_and_end_are_told_at_their_second(agent: RunningAgent) -> None:
    ends = {"expires_at": stamp(4), "terminates_at": stamp(7)}
    put(agent, "brief.json", license_("brief", **ends))
    grace = told(agent, {"type": "license", "license": "brief", "previous": "valid"})
    expired = told(agent, {"type": "license", "license": "brief", "previous": "grace"})
    assert (grace["state"], expired["state"]) == ("grace", "expired")
    for event, edge in ((grace, "expires_at"), (expired, "terminates_at")):
        assert datetime.fromisoformat(event["time"]) >= datetime.fromisoformat(ends[edge])
        assert event[edge] == ends[edge]
    assert expired["message"].startswith("brief serial 1 (Acme, production) expired, ended ")


def test_a_revocation_list_is_told_until_when_it_is_up_to_date(agent: RunningAgent) -> None:
    update = "2026-01-01T00:00:00Z"
    listed = ACME.revocations(serial=7, issued_at="2025-12-01T00:00:00Z", next_update=update)
    put(agent, "old.json", ACME.sign(listed, VendorKey(2), kind=REVOCATIONS))
    wait_for(lambda: "overdue since" in "\n".join(lines(agent)), "the list is overdue")
    (one,) = [one for one in agent.control("GET", "/v1/licenses")["revocations"] if one["file"] == "old.json"]
    assert (one["issuer"], one["in_force"], one["is_overdue"]) == ("Acme", True, True)
    told(agent, {"type": "license", "issuer": "Acme", "file": "old.json", "is_overdue": True})
    assert agent.total("licet_revocations_next_update_timestamp_seconds", issuer="Acme") >= 1767225600


def test_which_licenses_are_not_signed_is_said(agent: RunningAgent) -> None:
    shown = lines(agent)
    assert shown[0].startswith(f"written (not signed, {agent.files.policy}:6) valid, perpetual")
    assert shown[-1] == "not signed, and in force: written; require_signed is off"
    (one,) = [one for one in agent.control("GET", "/v1/licenses")["licenses"] if not one["signed"]]
    assert (one["id"], one["in_force"], one["verified"], one["key"]) == ("written", True, False, "")


@pytest.mark.parametrize("content", [b"{", FORGER.sign(FORGER.license(id="forged"))])
def test_a_file_name_breaks_no_line(agent: RunningAgent, content: bytes) -> None:
    odd = b"a\x1b]0;title\x07\n\xff\xe2\x80\xae.json"
    with open(bytes(agent.files.licenses) + b"/" + odd, "wb") as file:
        file.write(content)
    wait_for(lambda: documents(agent), "the file is read")
    told_as = "a\x1b]0;title\x07\n\\xff\u202e.json"  # once JSON is read
    wait_for(lambda: matching(agent, {"type": "license", "rule": told_as}), "it is told")
    shown = agent.licet("licenses").stdout
    status = agent.licet("status").stdout
    for text in (shown, status, agent.log()):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
    assert r"a\x1b]0;title\x07\n\xff\u202e.json" in shown


def reads(agent: RunningAgent, **counts: int) -> bool:
    """Once so many files have each state."""

    def found() -> bool:
        return all(agent.total("licet_license_documents", state=name) == n for name, n in counts.items())

    return wait_for(found, f"{counts} files are read", timeout_s=60)


def test_files_that_flip_are_told_once_each_time(agent: RunningAgent) -> None:
    names = [f"flood-{number:03}.json" for number in range(100)]
    for name in names:
        (agent.files.licenses / name).write_bytes(BAD["malformed"])
    assert reads(agent, malformed=100)

    def events(state: str) -> list[Mapping[str, Any]]:
        return [one for one in matching(agent, {"state": state}) if one.get("file", "").startswith("flood")]

    wait_for(lambda: len(events("malformed")) >= 100, "all are told")
    for name in names:
        (agent.files.licenses / name).write_bytes(BAD["unknown_key"])
    assert reads(agent, unknown_key=100)
    wait_for(lambda: len(events("unknown_key")) >= 100, "all are told again")
    for content, state in ((BAD["malformed"], "malformed"), (BAD["unknown_key"], "unknown_key")):
        (agent.files.licenses / "later.json").write_bytes(content)
        told(agent, {"file": "later.json", "state": state})  # each by a look of its own
    assert len(events("malformed")) == len(events("unknown_key")) == 100
