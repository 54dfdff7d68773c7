"""What people and machines read: JSON with its keys, metrics that promtool accepts, health."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.clients import Client
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET, RunningAgent
from tests.fixtures.saying import told

POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7700, class: internal}]}
  web: {product: acme, ports: [{port: 7701, class: public}]}
principals:
  ops: [{uid: 1700}]
licenses:
  - id: acme
    product: acme
    expires_at: 2099-01-01T00:00:00Z
    entitlements: [{id: use, classes: [internal, public], principals: [ops]}]
"""
EVERY_EVENT = {"type", "time"}
JUDGED = {
    *EVERY_EVENT,
    "decision",
    "reason",
    "enforced",
    "service",
    "class",
    "origin",
    "consumer",
    "owner",
    "tuple",
}
PROCESS = {"pid", "start_boot_ns", "comm", "exe", "args", "uid", "gid", "gids", "cgroup", "netns"}


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    """With something in every list: an open flow, a violation, a listener that is not declared."""
    lab = shared_lab
    lab.serve(lab.host, "127.0.0.1", 7700)
    lab.serve(lab.host, "127.0.0.1", 7709)
    with lab.agent(POLICY, {"intervals": {"summary": 1, "reconcile": 1}, "costs": True}) as running:
        client = Client(lab, lab.host, "plain", "127.0.0.1", 7700, uid=1701)
        client.connect()
        told(running, {"type": "violation", "consumer.pid": client.pid})
        yield running
        client.close()


def asked(agent: RunningAgent, *words: str) -> Any:
    return json.loads(agent.licet(*words, "--json").stdout)


def test_status_has_its_keys(shared_lab: Lab, agent: RunningAgent) -> None:
    status = asked(agent, "status")
    assert {
        *("version", "pid", "ready", "uptime_s", "mode", "listen", "scope", "pins", "hooks", "kernel"),
        *("not_covered", "policy", "losses", "maps", "flows", "memory_mb", "programs"),
    } <= set(status)
    assert (status["mode"], status["pid"], status["ready"]) == ("observe", agent.pid, True)
    assert status["scope"]["cgroup"] == shared_lab.scope
    assert {"connect", "flow", "listen", "accept"} <= {hook["hook"] for hook in status["hooks"]}
    assert all({"hook", "rung", "attached_to", "note"} == set(hook) for hook in status["hooks"])
    assert status["policy"]["files"] == [str(agent.files.policy)]
    assert status["not_covered"]
    assert status["maps"]["flows"]["entries"] == 1, "rows that each loading makes are no flows"
    assert 0 < status["memory_mb"] < 70  # a leak shows; the budget is held by make bench


def test_doctor_says_what_this_kernel_has(agent: RunningAgent) -> None:
    done = subprocess.run([LICET, "doctor", "--json"], capture_output=True, text=True, check=False)
    features = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert all({"name", "found", "required", "detail", "instead"} == set(one) for one in features)
    assert {"BTF", "sockops", "fexit"} <= {one["name"] for one in features}


def test_flows_have_both_ends(agent: RunningAgent) -> None:
    (flow,) = asked(agent, "flows")
    assert {"cookie", "opened_boot_ns", "established", "pre_existing", "acceptor", "tuple"} <= set(flow)
    assert (flow["service"], flow["class"], flow["decision"]) == ("db", "internal", "denied")
    assert set(flow["consumer"]) >= {*PROCESS, "identity"}
    assert set(flow["owner"]) >= PROCESS
    assert set(flow["tuple"]) == {"protocol", "src", "sport", "dst", "dport"}
    assert asked(agent, "flows", "--target", "db/internal") == [flow]
    assert asked(agent, "flows", "--target", "web") == []


def test_listeners_have_owner_bind_and_state(agent: RunningAgent) -> None:
    found = {one["port"]: one for one in asked(agent, "listeners")}
    assert {
        *("protocol", "address", "port", "netns", "v6only", "bind", "service", "class"),
        *("states", "owners", "explanation", "catalog"),
    } == set(found[7700])
    assert found[7700]["states"] == ["declared"]
    assert [one["port"] for one in asked(agent, "listeners", "--judged")] == [7709]


def test_every_event_is_a_line_of_json_with_its_keys(agent: RunningAgent) -> None:
    lines = agent.licet("events", "--json", "--limit", "1000").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert events == agent.events()
    assert all(set(event) >= EVERY_EVENT for event in events)
    (violation,) = (event for event in events if event["type"] == "violation")
    assert set(violation) >= JUDGED
    assert set(violation["consumer"]) >= {*PROCESS, "identity"}
    assert violation["enforced"] is False
    only = agent.licet("events", "--json", "--type", "violation").stdout.splitlines()
    assert [json.loads(line) for line in only] == [violation]


@pytest.mark.parametrize("command", ["status", "flows", "listeners", "events"])
def test_what_people_read_names_the_same(agent: RunningAgent, command: str) -> None:
    done = agent.licet(command)
    assert done.stdout.strip()
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_a_live_scrape(agent: RunningAgent) -> None:
    status, body = agent.get("/metrics")
    assert status == 200
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_documented_metric_is_there_from_the_start(agent: RunningAgent) -> None:
    names = {name for name, _ in agent.metrics()}
    assert names >= {
        "licet_connections_total",
        "licet_violations_total",
        "licet_violations_by_consumer_total",
        "licet_active_connections",
        "licet_unprotected_connections_total",
        "licet_listeners",
        "licet_exposures",
        "licet_license_expiry_timestamp_seconds",
        "licet_license_valid",
        "licet_enforcing",
        "licet_enforcing_wanted",
        "licet_mode_overrides",
        "licet_policy_generation",
        "licet_policy_reload_failures_total",
        "licet_policy_last_reload_successful",
        "licet_policy_loaded_timestamp_seconds",
        "licet_events_lost_total",
        "licet_map_entries",
        "licet_map_capacity",
        "licet_bpf_program_runs_total",
        "licet_bpf_program_run_seconds_total",
        "licet_hook_info",
        "licet_build_info",
    }


def test_a_target_nobody_has_used_stands_at_zero(agent: RunningAgent) -> None:
    of_web = {
        dict(labels)["origin"] + " " + dict(labels)["decision"]: value
        for (name, labels), value in agent.metrics().items()
        if name == "licet_connections_total" and dict(labels)["service"] == "web"
    }
    assert len(of_web) == 3 * 4
    assert set(of_web.values()) == {0}


def test_health_and_readiness(agent: RunningAgent) -> None:
    assert agent.get("/healthz") == (200, "ok\n")
    status, body = agent.get("/readyz")
    assert (status, json.loads(body)["ready"]) == (200, True)


def test_processes_are_named_on_the_control_socket_only(agent: RunningAgent) -> None:
    for path in ("/v1/status", "/v1/flows", "/v1/events", "/v1/reload"):
        assert agent.get(path)[0] == 404
