"""Signed license documents decide in the kernel: each reason at an attempt, and what stays in force."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, violations
from tests.fixtures.vendor import REVOCATIONS, Vendor, VendorKey, stamp
from tests.fixtures.waiting import wait_for

PORT = 7710
POLICY = f"""\
version: 1
services:
  orders: {{product: acme-orders, ports: [{{port: {PORT}, class: internal}}]}}
  other: {{product: billing, ports: [{{port: 7711, class: internal}}]}}
principals:
  billing: [{{uid: 1001}}]
  guest: [{{uid: 1002}}]
enforcement: {{default: enforce}}
"""
ACME = Vendor(keys=[VendorKey(1), VendorKey(2)])
FORGER = Vendor(keys=[VendorKey(3)])
APP = [{"id": "app", "classes": ["internal"], "principals": ["billing"]}]


@pytest.fixture(scope="module")
def running(shared_lab: Lab) -> Iterator[RunningAgent]:
    for port in (PORT, 7711):
        shared_lab.serve(shared_lab.host, "127.0.0.1", port)
    with shared_lab.agent(POLICY) as agent:
        for key in ACME.keys:
            ACME.pin(agent.files.keys, key)
        agent.files.licenses.mkdir()
        yield agent


@pytest.fixture
def agent(running: RunningAgent) -> RunningAgent:
    """Each test begins without documents, and without what earlier ones established."""
    for path in running.files.licenses.iterdir():
        path.unlink()
    running.terminate()
    for path in (running.files.directory / "state/licenses").iterdir():
        path.unlink()
    running.start()
    return running


def put(agent: RunningAgent, name: str, content: bytes) -> None:
    path = agent.files.licenses / name
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def license_(**fields: object) -> bytes:
    return ACME.sign(ACME.license(**{"entitlements": APP, **fields}))


def attempt(lab: Lab, agent: RunningAgent, uid: int = 1001) -> str:
    """The decision about one attempt, or the reason of its violation."""
    counted, violated = connections(agent, "orders"), violations(agent, "orders")
    lab.load(lab.host, "127.0.0.1", PORT, uid=uid)
    now = connections(agent, "orders")
    ((_, decision),) = [key for key, value in now.items() if value != counted.get(key, 0)]
    if decision != "denied":
        return decision
    after = violations(agent, "orders")
    (reason,) = [one for one, count in after.items() if count != violated.get(one, 0)]
    return reason


def becomes(lab: Lab, agent: RunningAgent, expected: str, uid: int = 1001) -> None:
    wait_for(lambda: attempt(lab, agent, uid) == expected, f"uid {uid}: {expected}")


def test_a_signed_document_licenses_whom_it_names(shared_lab: Lab, agent: RunningAgent) -> None:
    assert attempt(shared_lab, agent) == "no_license"
    put(agent, "a.json", license_())
    becomes(shared_lab, agent, "allowed")
    assert attempt(shared_lab, agent, uid=1002) == "unlicensed_principal"
    (agent.files.licenses / "a.json").unlink()
    becomes(shared_lab, agent, "no_license")


WAYS: dict[str, Callable[[], dict[str, bytes]]] = {
    "unknown_key": lambda: {"x.json": FORGER.sign(ACME.license(entitlements=APP))},
    "bad_signature": lambda: {
        "x.json": FORGER.sign(ACME.license(entitlements=APP), keyids=[ACME.keys[0].kid])
    },
    "revoked": lambda: {
        "x.json": license_(),
        "r.json": ACME.sign(
            ACME.revocations(licenses=[{"id": "acme-2026", "serials": [1]}]), kind=REVOCATIONS
        ),
    },
    "superseded": lambda: {
        "x.json": license_(),
        "y.json": license_(serial=2, entitlements=[{"id": "app", "principals": ["guest"]}]),
    },
    "node_mismatch": lambda: {"x.json": license_(node_lock={"any_of": ["hk:" + "0" * 64]})},
    "not_yet_valid": lambda: {"x.json": license_(starts_at=stamp(3600))},
    "expired": lambda: {
        "x.json": license_(issued_at=stamp(-9000), expires_at=stamp(-7200), terminates_at=stamp(-3600))
    },
}


@pytest.mark.parametrize("reason", WAYS)
def test_each_way_to_be_invalid_is_the_reason_of_a_refusal(
    shared_lab: Lab, agent: RunningAgent, reason: str
) -> None:
    for name, content in WAYS[reason]().items():
        put(agent, name, content)
    becomes(shared_lab, agent, reason)
    agent.restart()
    assert attempt(shared_lab, agent) == reason


@pytest.mark.parametrize("reason", WAYS)
def test_a_good_document_goes_on_beside_it(shared_lab: Lab, agent: RunningAgent, reason: str) -> None:
    put(agent, "good.json", license_(id="good"))
    becomes(shared_lab, agent, "allowed")
    for name, content in WAYS[reason]().items():
        put(agent, name, content)
    put(agent, "last.json", license_(id="last", entitlements=[{"id": "app", "principals": ["guest"]}]))
    becomes(shared_lab, agent, "allowed", uid=1002)  # all files have been read
    assert attempt(shared_lab, agent) == "allowed"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:100],
        lambda content: content.replace(b'"sig": "', b'"sig": "////', 1),
        lambda content: FORGER.sign(ACME.license(entitlements=APP)),
        lambda content: license_(serial=1),
    ],
    ids=["half copied", "edited", "forged", "older"],
)
def test_the_last_good_document_of_a_file_stays_in_force(
    shared_lab: Lab, agent: RunningAgent, spoil: Callable[[bytes], bytes]
) -> None:
    good = license_(serial=2)
    put(agent, "a.json", good)
    becomes(shared_lab, agent, "allowed")
    put(agent, "a.json", spoil(good))
    put(agent, "last.json", license_(id="last", entitlements=[{"id": "app", "principals": ["guest"]}]))
    becomes(shared_lab, agent, "allowed", uid=1002)
    assert attempt(shared_lab, agent) == "allowed"
    agent.restart()
    assert attempt(shared_lab, agent) == "allowed"


def test_a_malformed_document_refuses_nothing_else(shared_lab: Lab, agent: RunningAgent) -> None:
    put(agent, "a.json", b"{")
    put(agent, "b.json", license_())
    becomes(shared_lab, agent, "allowed")
    agent.set_policy(POLICY.replace("uid: 1001", "uid: [1001, 1003]"))
    assert attempt(shared_lab, agent, uid=1003) == "allowed"
    agent.set_policy(POLICY)


def test_a_renewal_does_not_wait_for_a_policy_that_is_refused(shared_lab: Lab, agent: RunningAgent) -> None:
    agent.files.write_policy(POLICY.replace("class: internal", "class: secret"))
    wait_for(lambda: agent.status()["policy"]["last_error"], "the policy is refused")
    put(agent, "a.json", license_())
    becomes(shared_lab, agent, "allowed")
    agent.set_policy(POLICY)


def test_a_removed_key_ends_its_license(shared_lab: Lab, agent: RunningAgent) -> None:
    put(agent, "a.json", license_())
    becomes(shared_lab, agent, "allowed")
    pinned = agent.files.keys / f"{ACME.keys[0].kid[:12]}.yaml"
    pinned.rename(pinned.with_suffix(".away"))
    try:
        becomes(shared_lab, agent, "unknown_key")
    finally:
        pinned.with_suffix(".away").rename(pinned)
    becomes(shared_lab, agent, "allowed")


def test_a_ninth_candidate_is_left_out_and_the_reload_goes_on(shared_lab: Lab, agent: RunningAgent) -> None:
    guest = [{"id": "app", "principals": ["guest"]}]
    for number in range(8):
        put(agent, f"{number}.json", license_(id=f"a{number}", entitlements=guest))
    put(agent, "8.json", license_(id="a8"))
    becomes(shared_lab, agent, "allowed", uid=1002)
    wait_for(lambda: "8.json" in str(agent.status()["policy"]["warnings"]), "8.json is left out")
    assert attempt(shared_lab, agent) == "unlicensed_principal"
    (agent.files.licenses / "3.json").unlink()
    becomes(shared_lab, agent, "allowed")


def test_what_ended_takes_no_candidate(shared_lab: Lab, agent: RunningAgent) -> None:
    past = {"issued_at": stamp(-9000), "expires_at": stamp(-3600)}
    for number in range(8):
        put(agent, f"{number}.json", license_(id=f"a{number}", **past))
    put(agent, "8.json", license_(id="a8"))
    becomes(shared_lab, agent, "allowed")


def test_a_document_expires_at_its_second_without_an_agent(shared_lab: Lab, agent: RunningAgent) -> None:
    ends = time.time() + 6
    put(agent, "a.json", license_(expires_at=stamp(6), terminates_at=stamp(6)))
    becomes(shared_lab, agent, "allowed")
    agent.kill9()
    wait_for(lambda: time.time() > ends + 0.1, "it has expired")
    assert shared_lab.load(shared_lab.host, "127.0.0.1", PORT, uid=1001)["errors"] == {"EPERM": 1}
    agent.start()
    assert attempt(shared_lab, agent) == "expired"


def test_an_inline_license_gives_way_to_the_document_with_its_id(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    inline = """
licenses:
  - {id: acme-2026, product: acme-orders, entitlements: [{id: app, classes: [internal], principals: [guest]}]}
"""
    agent.set_policy(POLICY + inline)
    assert attempt(shared_lab, agent, uid=1002) == "allowed"
    put(agent, "a.json", license_())
    becomes(shared_lab, agent, "allowed")
    assert attempt(shared_lab, agent, uid=1002) == "unlicensed_principal"
    assert "a.json" in str(agent.status()["policy"]["warnings"])
    agent.set_policy(POLICY)


def test_where_only_signed_licenses_grant(lab: Lab) -> None:
    lab.serve(lab.host, "127.0.0.1", PORT)
    inline = """
licenses:
  - {id: inline, product: acme-orders, entitlements: [{id: app, classes: [internal], principals: [billing]}]}
"""
    with lab.agent(POLICY + inline, {"require_signed": True}) as agent:
        assert attempt(lab, agent) == "bad_signature"
        assert "require_signed" in str(agent.status()["policy"]["warnings"])
        ACME.pin(agent.files.keys)
        agent.files.licenses.mkdir()
        put(agent, "a.json", license_())
        becomes(lab, agent, "allowed")


def test_the_host_has_a_key_of_its_own(agent: RunningAgent) -> None:
    state = agent.files.directory / "state"
    key: Path = state / "host.key"
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes(), (state / "host.pub").read_text()
    agent.restart()
    assert (key.read_bytes(), (state / "host.pub").read_text()) == before


MARK = "7f3a"
NOBODYS = {
    "unknown_key": (None, "key {kid} is not pinned"),
    "bad_signature": ([ACME.keys[0].kid], "no signature verifies"),
}


def nobodys(reason: str, name: str) -> bytes:
    """A document that would license billing, if a vendor had signed it."""
    keyids, _ = NOBODYS[reason]
    texts = {"id": name, "licensee": f"Licensee {MARK}", "extensions": {"order": MARK}}
    return FORGER.sign(ACME.license(**texts, serial=9, entitlements=APP), keyids=keyids)


@pytest.mark.parametrize("reason", NOBODYS)
def test_an_attempt_is_told_why_a_document_grants_nothing_and_not_its_name(
    shared_lab: Lab, agent: RunningAgent, reason: str
) -> None:
    seen = len(agent.events())

    def refusal() -> dict[str, Any] | None:
        now = agent.events("violation")
        return next((one for one in now if one["reason"] == reason), None)

    put(agent, "x.json", nobodys(reason, f"forged-{MARK}"))
    becomes(shared_lab, agent, reason)
    assert attempt(shared_lab, agent, uid=1002) == "unlicensed_principal"
    refused = wait_for(refusal, "the refusal is told")
    events = agent.events()[seen:]
    assert (refused["enforced"], refused["consumer"]["uid"]) == (True, 1001)
    assert not {"license", "entitlement", "principal"} & {key for key, value in refused.items() if value}
    told = [{**one, "message": ""} for one in events]
    texts = (agent.get("/metrics")[1], *(agent.control("GET", f"/v1/{of}") for of in ("flows", "edges")))
    assert MARK not in f"{told} {texts}"
    (row,) = (one for one in agent.control("GET", "/v1/licenses")["licenses"] if one["file"] == "x.json")
    assert (row["state"], row["verified"], row["in_force"], row["key"]) == (reason, False, False, "")
    assert row["why"].startswith(NOBODYS[reason][1].format(kid=FORGER.keys[0].kid[:12]))
    assert row["extensions"] == {}
    for command in ("licenses", "status"):
        shown = agent.licet(command).stdout
        assert f"x.json, not verified, says: forged-{MARK} serial 9 (Acme, production) {reason}" in shown
    assert agent.get("/readyz")[0] == 200


@pytest.mark.parametrize("reason", NOBODYS)
def test_a_document_that_nobody_signed_speaks_for_no_other_with_its_id(
    shared_lab: Lab, agent: RunningAgent, reason: str
) -> None:
    put(agent, "good.json", license_(serial=3, entitlements=[{"id": "app", "principals": ["guest"]}]))
    becomes(shared_lab, agent, "allowed", uid=1002)
    before = {key: value for key, value in agent.metrics().items() if ("license", "acme-2026") in key[1]}
    put(agent, "x.json", nobodys(reason, "acme-2026"))
    becomes(shared_lab, agent, reason)
    assert attempt(shared_lab, agent, uid=1002) == "allowed"
    after = {key: value for key, value in agent.metrics().items() if ("license", "acme-2026") in key[1]}
    assert after == before
    assert agent.total("licet_license_serial", license="acme-2026") == 3
    assert agent.total("licet_license_documents", state=reason) == 1
