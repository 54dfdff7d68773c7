"""Reloading: on a changed file and on SIGHUP, all of it or nothing, also while connections are being made."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, matching, told, violations
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  {name}: {{product: acme, ports: [{{port: {port}, class: internal}}]}}
principals:
  licensed: [{{uid: {uid}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
"""
PORT = 7300


def policy(uid: int, name: str = "db") -> str:
    return POLICY.format(name=name, port=PORT, uid=uid)


BAD = policy(1001).replace("principals: [licensed]", "principals: [licenced]")


@pytest.fixture(scope="module")
def running(shared_lab: Lab) -> Iterator[RunningAgent]:
    shared_lab.serve(shared_lab.host, "127.0.0.1", PORT, workers=2)
    with shared_lab.agent(policy(1001)) as agent:
        yield agent


@pytest.fixture
def agent(running: RunningAgent) -> RunningAgent:
    """Every test begins with uid 1001 licensed, and nothing in policy.d."""
    for path in (running.files.directory / "policy.d").iterdir():
        path.unlink()
    wanted = policy(1001)
    if not running.files.policy.exists() or running.files.policy.read_text() != wanted:
        running.set_policy(wanted)
    wait_for(lambda: running.status()["policy"]["targets"] == 1, "only the first policy is in force")
    return running


def more_in_policy_d(agent: RunningAgent, name: str) -> None:
    text = f"version: 1\nservices:\n  {name}: {{product: acme, ports: [{{port: 7301, class: internal}}]}}\n"
    (agent.files.directory / "policy.d" / "10-more.yaml").write_text(text)
    wait_for(lambda: agent.status()["policy"]["targets"] == 2, "the file is in force")


def decision_for(lab: Lab, agent: RunningAgent, uid: int) -> str:
    before = connections(agent, "db")
    lab.load(lab.host, "127.0.0.1", PORT, uid=uid)
    now = connections(agent, "db")
    ((_, decision),) = [key for key, value in now.items() if value != before.get(key, 0)]
    return decision


def refused(agent: RunningAgent) -> Callable[[], bool]:
    before = agent.total("licet_policy_reload_failures_total")
    return lambda: agent.total("licet_policy_reload_failures_total") > before


def test_a_changed_file_is_in_force_without_a_signal(shared_lab: Lab, agent: RunningAgent) -> None:
    assert decision_for(shared_lab, agent, 1001) == "allowed"
    generation = agent.total("licet_policy_generation")
    agent.set_policy(policy(1002))
    assert agent.total("licet_policy_generation") > generation
    assert decision_for(shared_lab, agent, 1001) == "denied"
    assert decision_for(shared_lab, agent, 1002) == "allowed"
    assert matching(agent, {"type": "policy"})


def test_a_file_in_policy_d_is_merged_when_it_appears(shared_lab: Lab, agent: RunningAgent) -> None:
    more_in_policy_d(agent, "merged")
    shared_lab.load(shared_lab.host, "127.0.0.1", 7301, uid=1001)
    assert connections(agent, "merged") == {("loopback", "allowed"): 1}


def test_sighup_reloads(agent: RunningAgent) -> None:
    loaded = agent.total("licet_policy_loaded_timestamp_seconds")
    os.kill(agent.pid, signal.SIGHUP)
    wait_for(lambda: agent.total("licet_policy_loaded_timestamp_seconds") > loaded, "it was loaded again")
    assert agent.total("licet_policy_reload_failures_total") == 0


def test_a_bad_file_leaves_the_old_policy_in_force_and_says_so_everywhere(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    generation = agent.total("licet_policy_generation")
    is_refused = refused(agent)
    agent.files.write_policy(BAD)
    wait_for(is_refused, "the file is refused")
    error = wait_for(lambda: agent.status()["policy"]["last_error"], "status says so")
    assert f"{agent.files.policy}:7" in error
    assert "licenced" in error
    event = wait_for(lambda: matching(agent, {"type": "policy_error"}), "an event says so")[0]
    assert "licenced" in event["message"]
    assert "licenced" in agent.log()
    assert agent.total("licet_policy_last_reload_successful") == 0
    assert agent.total("licet_policy_generation") == generation
    assert decision_for(shared_lab, agent, 1001) == "allowed"
    assert decision_for(shared_lab, agent, 1002) == "denied"
    agent.set_policy(policy(1002))
    assert agent.status()["policy"]["last_error"] == ""
    assert agent.total("licet_policy_last_reload_successful") == 1
    assert decision_for(shared_lab, agent, 1002) == "allowed"
    assert "Traceback" not in agent.log()


def test_a_policy_that_is_removed_stays_in_force(shared_lab: Lab, agent: RunningAgent) -> None:
    is_refused = refused(agent)
    agent.files.policy.unlink()
    wait_for(is_refused, "the removal is noticed")
    wait_for(lambda: "gone" in agent.status()["policy"]["last_error"], "status says so")
    assert decision_for(shared_lab, agent, 1001) == "allowed"
    assert decision_for(shared_lab, agent, 1002) == "denied"


def test_a_policy_directory_that_vanishes_and_comes_back_is_followed(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    folder = agent.files.directory / "policy.d"
    folder.rmdir()
    folder.mkdir()
    more_in_policy_d(agent, "followed")
    shared_lab.load(shared_lab.host, "127.0.0.1", 7301, uid=1001)
    assert connections(agent, "followed") == {("loopback", "allowed"): 1}


def test_a_service_that_leaves_and_comes_back_keeps_its_count(shared_lab: Lab, agent: RunningAgent) -> None:
    for name, count in (("leaving", 5), ("other", 3), ("leaving", 2)):
        agent.set_policy(policy(1001, name))
        shared_lab.load(shared_lab.host, "127.0.0.1", PORT, connections=count, uid=1001)
    assert connections(agent, "leaving") == {("loopback", "allowed"): 7}


def test_20_reloads_under_20000_attempts_each_judged_by_one_of_the_two(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    lab = shared_lab
    agent.set_policy(policy(1001, "busy"))
    argv = [lab.executable("opt/client"), "127.0.0.1", str(PORT), "--connections", "20000"]
    load = lab.run(lab.host, [*argv, "--clients", "32", "--rate", "2500"], uid=1001)
    wait_for(lambda: connections(agent, "busy"), "connections are under way")
    for number in range(20):
        agent.set_policy(policy(1002 if number % 2 == 0 else 1001, "busy"))
    assert load.poll() is None, "the load ended before the reloads"
    out, err = load.communicate(timeout=60)
    assert json.loads(out)["ok"] == 20_000, err
    counted = connections(agent, "busy")
    assert set(counted) == {("loopback", "allowed"), ("loopback", "denied")}
    assert sum(counted.values()) == 20_000
    assert violations(agent, "busy") == {"unlicensed_principal": counted["loopback", "denied"]}
    assert all_closed(agent, "busy") == 20_000


def test_each_event_and_a_metric_say_which_files_are_in_force(shared_lab: Lab, agent: RunningAgent) -> None:
    """By a hash that anybody can make of the files."""
    agent.set_policy(policy(1002, "hashed"))
    more_in_policy_d(agent, "second")
    parts = sorted((agent.files.directory / "policy.d").iterdir())
    cat = subprocess.run(["cat", agent.files.policy, *parts], capture_output=True, check=True)
    wanted = hashlib.sha256(cat.stdout).hexdigest()
    assert agent.total("licet_policy_info", sha256=wanted) == 1
    assert agent.total("licet_policy_info") == 1
    status = agent.status()["policy"]
    assert status["sha256"] == wanted
    assert status["loaded_at"].endswith("Z")
    shared_lab.load(shared_lab.host, "127.0.0.1", PORT, uid=1003)
    event = told(agent, {"type": "violation", "service": "hashed", "consumer.uid": 1003})
    assert event["policy"]["sha256"] == wanted
    generations = range(status["generation"], agent.status()["policy"]["generation"] + 1)
    assert event["policy"]["generation"] in generations, "the host may have been looked at in between"
    assert (event["schema"], event["severity"], event["host"]) == (1, "warning", os.uname().nodename)
