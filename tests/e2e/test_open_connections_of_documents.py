"""Open connections when a signed license is renewed, revoked, withdrawn, or ends at its second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.fixtures import processes
from tests.fixtures.clients import Client
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import told
from tests.fixtures.vendor import REVOCATIONS, Vendor, VendorKey, stamp
from tests.fixtures.waiting import SLOWER, wait_for

CUT, KEPT = 7741, 7742
POLICY = f"""\
version: 1
services:
  db: {{product: acme-orders, on_end: cut, ports: [{{port: {CUT}, class: internal}}]}}
  api: {{product: acme-orders, ports: [{{port: {KEPT}, class: internal}}]}}
principals: {{billing: [{{uid: 1001}}], guest: [{{uid: 1002}}]}}
enforcement: {{default: enforce}}
"""
ACME = Vendor(keys=[VendorKey(1), VendorKey(2)])
APP = [{"id": "app", "principals": ["billing"]}]
SOON_S = round(12 * SLOWER)


@pytest.fixture
def agent(lab: Lab) -> Iterator[RunningAgent]:
    servers = [lab.serve(lab.host, "127.0.0.1", port) for port in (CUT, KEPT)]
    with lab.agent(POLICY, start=False) as running:
        for key in ACME.keys:
            ACME.pin(running.files.keys, key)
        running.files.licenses.mkdir()
        running.start()
        yield running
    for server in servers:
        processes.end(server)


def put(agent: RunningAgent, name: str, content: bytes, *, and_wait: bool = True) -> None:
    fresh = agent.files.licenses / f"{name}.new"
    fresh.write_bytes(content)
    fresh.replace(agent.files.licenses / name)
    if and_wait:
        wait_for(lambda: name in read(agent), f"{name} is read")


def license_(**fields: object) -> bytes:
    return ACME.sign(ACME.license(**{"entitlements": APP, **fields}))


def read(agent: RunningAgent) -> dict[str, tuple[int | None, str]]:
    """Serial and state, by file."""
    rows = agent.control("GET", "/v1/licenses")["licenses"]
    return {one["file"]: (one["serial"], one["state"]) for one in rows if not one["is_copy"]}


def opened(lab: Lab, port: int) -> Client:
    client = Client(lab, lab.host, "lasting", "127.0.0.1", port, uid=1001)
    client.connect()
    return client


def refused(lab: Lab, port: int = CUT) -> dict[str, int]:
    return lab.load(lab.host, "127.0.0.1", port, uid=1001)["errors"]


@pytest.mark.parametrize("same_file", [False, True])
def test_a_renewal_that_begins_as_the_old_license_ends_leaves_no_gap(
    lab: Lab, agent: RunningAgent, same_file: bool
) -> None:
    switch, ends = stamp(SOON_S), time.time() + SOON_S
    put(agent, "a.json", license_(expires_at=switch))
    clients = [opened(lab, port) for port in (CUT, KEPT)]
    renewal = "a.json" if same_file else "b.json"
    put(agent, renewal, license_(serial=2, starts_at=switch))
    wait_for(lambda: read(agent)[renewal] == (2, "not_yet_valid"), "the renewal waits")
    assert time.time() < ends
    while time.time() < ends + 3:
        assert refused(lab) == {}
    wait_for(lambda: read(agent)[renewal] == (2, "valid"), "the renewal is in force")
    assert {flow["service"] for flow in agent.flows()} == {"db", "api"}
    assert {client.close()["error"] for client in clients} == {""}
    assert not agent.events("cut")
    assert agent.total("licet_violations_total") == 0


def revoke(agent: RunningAgent) -> None:
    listed = ACME.revocations(licenses=[{"id": "acme-2026", "serials": "all"}])
    put(agent, "r.json", ACME.sign(listed, VendorKey(2), kind=REVOCATIONS), and_wait=False)


def withdraw(agent: RunningAgent) -> None:
    (agent.files.licenses / "a.json").unlink()


def remove_key(agent: RunningAgent) -> None:
    (agent.files.keys / f"{ACME.keys[0].kid[:12]}.yaml").unlink()


def renew_for_others(agent: RunningAgent) -> None:
    put(agent, "b.json", license_(serial=2, entitlements=[{"id": "app", "principals": ["guest"]}]))


ENDS: dict[str, Callable[[RunningAgent], None]] = {
    "revoked": revoke,
    "no_license": withdraw,
    "unknown_key": remove_key,
    "superseded": renew_for_others,
    "expired": lambda agent: None,
}


@pytest.mark.parametrize("reason", ENDS)
def test_a_right_that_ends_cuts_where_the_policy_says_so(lab: Lab, agent: RunningAgent, reason: str) -> None:
    ends = {"expires_at": stamp(SOON_S), "terminates_at": stamp(SOON_S)} if reason == "expired" else {}
    put(agent, "a.json", license_(**ends))
    cut, kept = opened(lab, CUT), opened(lab, KEPT)
    assert refused(lab) == {}
    ENDS[reason](agent)
    event = told(agent, {"type": "cut"}, timeout_s=SOON_S + 15)
    assert (event["service"], event["reason"], event["enforced"]) == ("db", reason, True)
    assert [refused(lab, port) for port in (CUT, KEPT)] == [{"EPERM": 1}] * 2
    assert {flow["service"] for flow in agent.flows()} == {"api"}
    assert (cut.close()["error"], kept.close()["error"]) == ("ECONNABORTED", "")
