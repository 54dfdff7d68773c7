"""The agent as its pod runs it: command, capabilities and read-only root are the chart's, the namespaces are
those a container has, and the policy comes from a ConfigMap that kubelet swaps.

Not a container runtime's doing; that is tests/image. AppArmor's profile is not applied in either."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fixtures.config_map import ConfigMap
from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import pins_in
from tests.fixtures.running_agent import LICET, RunningAgent
from tests.fixtures.saying import told
from tests.fixtures.waiting import wait_for
from tests.packaging.chart import Object, container_of, one, render

SERVICES = """\
version: 1
services:
  db: {product: acme, owner: [{uid: 1001}], ports: [{port: 7301, class: internal}]}
principals: {licensed: [{uid: 1001}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
"""
MORE = "version: 1\nservices: {web: {product: acme, ports: [{port: 7302, class: internal}]}}\n"
IN_THE_POD = """\
set -e
mount --bind "$LAB" "$LAB"                      # as the pod's volumes: writable
mount -o remount,bind,ro /
mount -o remount,bind,ro /sys/fs/cgroup
caps=$1
shift
exec setpriv --bounding-set="$caps" --inh-caps=-all "$@"
"""


def policy(mode: str, services: str = SERVICES) -> Mapping[str, str]:
    """What the chart makes of these values."""
    objects = render({"policy": {"10-policy.yaml": services}, "enforcement": {"default": mode}})
    files: Mapping[str, str] = one(objects, "ConfigMap", "licet-policy")["data"]
    return files


def command(container: Object) -> list[str | Path]:
    """The container's, inside a container's namespaces and with its capabilities."""
    add = container["securityContext"]["capabilities"]["add"]
    bounding = ",".join(["-all", *(f"+{capability.lower()}" for capability in add)])
    # where tests run, even root may not look into process 1: this process stands for it
    own = [part.replace("/proc/1/", f"/proc/{os.getpid()}/") for part in container["command"]]
    inside = ["sh", "-c", IN_THE_POD, "pod", bounding, *own, *container["args"]]
    return ["unshare", "--cgroup", "--mount", *inside]


def filters(lab: Lab) -> str:
    argv = ["tc", "-n", lab.host.name, "filter", "show", "dev", "to-remote", "ingress"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def config_map(shared_lab: Lab) -> ConfigMap:
    made = ConfigMap(shared_lab.directory / "mounted")
    made.put(policy("observe"))
    return made


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, config_map: ConfigMap) -> Iterator[RunningAgent]:
    shared_lab.serve(shared_lab.host, "::", 7301, uid=1001)
    settings = {"scope": {"interfaces": ["*"]}, "paths": {"policy_dir": str(config_map.directory)}}
    running = shared_lab.agent(None, settings, start=False)
    env = {
        "PATH": f"{LICET.parent}:{os.environ['PATH']}",
        "LICET_CONFIG": str(running.files.config),
        "LAB": str(shared_lab.directory),
    }
    running.start(command=command(container_of(render({"unloadOnStop": True}))), env=env)
    yield running
    running.stop()


def test_the_agent_of_the_pod_judges_and_names_who_is_outside(shared_lab: Lab, agent: RunningAgent) -> None:
    load = shared_lab.load(shared_lab.host, "127.0.0.1", 7301, uid=1002, cgroup="intruder.service")
    assert load["errors"] == {}, "observed only"
    consumer = told(agent, {"type": "violation", "service": "db", "origin": "loopback"})["consumer"]
    assert consumer["exe"] == str(shared_lab.executable("load"))
    assert consumer["cgroup"] == f"{shared_lab.scope}/intruder.service"
    (listener,) = (each for each in agent.listeners() if each["service"] == "db")
    assert listener["owners"][0]["uid"] == 1001


def test_a_config_map_that_changes_is_followed_without_a_restart(
    shared_lab: Lab, agent: RunningAgent, config_map: ConfigMap
) -> None:
    def refused() -> bool:
        return bool(shared_lab.load(shared_lab.host, "127.0.0.1", 7301, uid=1002)["errors"])

    started = agent.status()["pid"]
    config_map.put(policy("enforce"))
    wait_for(refused, "the fleet's toggle arrives")
    assert shared_lab.load(shared_lab.remote, shared_lab.host.v4, 7301)["errors"] == {"ECONNREFUSED": 1}
    wait_for(lambda: "licet-" in filters(shared_lab), "the tc gate is attached")
    config_map.put(policy("enforce", SERVICES.replace("services", "servces")))
    wait_for(lambda: agent.total("licet_policy_last_reload_successful") == 0, "the mistake is noticed")
    assert refused()
    config_map.put({**policy("enforce"), "20-more.yaml": MORE})
    wait_for(lambda: agent.status()["policy"]["targets"] == 2, "a key that is new is followed too")
    assert agent.total("licet_policy_last_reload_successful") == 1
    config_map.put(policy("observe"))
    wait_for(lambda: not refused(), "the toggle is taken back")
    config_map.put(policy("enforce"))
    wait_for(refused, "and given again")
    assert agent.status()["pid"] == started


def test_with_unload_on_stop_a_pod_that_ends_leaves_nothing_behind(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    assert shared_lab.load(shared_lab.host, "127.0.0.1", 7301, uid=1002)["errors"] == {"EPERM": 1}
    agent.terminate()
    assert pins_in(agent.files.pins) == []
    assert filters(shared_lab) == ""
    assert shared_lab.load(shared_lab.host, "127.0.0.1", 7301, uid=1002)["errors"] == {}
    assert shared_lab.load(shared_lab.remote, shared_lab.host.v4, 7301)["errors"] == {}
