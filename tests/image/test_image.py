"""The image in a real runtime, as the chart's pod: it sees, names, judges and refuses who is outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from tests.fixtures.config_map import ConfigMap
from tests.fixtures.crun import Runtime
from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import pins_in
from tests.fixtures.running_agent import AgentFiles, RunningAgent
from tests.fixtures.saying import connections, told
from tests.fixtures.waiting import wait_for
from tests.image.oci import Unpacked
from tests.image.pod import runtime_config
from tests.packaging.chart import Object, container_of, one, pod_of, render

POD = "agent"
DOCKER = "/var/lib/docker/containers"
SIBLINGS = {"web-1": "a" * 64, "intruder": "b" * 64}
SERVICES = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7301, class: internal}]}
principals: {licensed: [{uid: 1001}, {container: web-*}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
"""


def values(lab: Lab, mode: str) -> Object:
    return {
        "unloadOnStop": True,
        "metrics": {"address": "127.0.0.1"},
        "containerState": [DOCKER],
        "policy": {"10-policy.yaml": SERVICES},
        "enforcement": {"default": mode},
        "config": {
            "scope": {
                "cgroup": lab.scope,
                "interfaces": ["*"],
                "namespaces": [str(place.path) for place in (lab.host, lab.container)],
            },
            "events": {"sink": "/var/lib/licet/events.jsonl"},
        },
    }


def put(config_map: ConfigMap, lab: Lab, mode: str) -> None:
    config_map.put(one(render(values(lab, mode)), "ConfigMap", "licet-policy")["data"])


@pytest.fixture(scope="module")
def runtime(shared_lab: Lab) -> Runtime:
    made = Runtime(shared_lab)
    for name, number in SIBLINGS.items():
        made.write_docker(number, name, "nginx:1.27")
    return made


@pytest.fixture(scope="module")
def policy(shared_lab: Lab) -> ConfigMap:
    made = ConfigMap(shared_lab.directory / "mounted-policy")
    put(made, shared_lab, "observe")
    return made


@pytest.fixture(scope="module")
def bpffs(shared_lab: Lab) -> Iterator[Path]:
    """The node's, in which nobody else pins anything."""
    place = shared_lab.directory / "bpffs"
    place.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="module")
def agent(
    shared_lab: Lab, runtime: Runtime, policy: ConfigMap, bpffs: Path, image: Unpacked
) -> Iterator[RunningAgent]:
    shared_lab.serve(shared_lab.host, "::", 7301, uid=1001)
    objects = render(values(shared_lab, "observe"))
    settings = ConfigMap(shared_lab.directory / "mounted-settings")
    settings.put(one(objects, "ConfigMap")["data"])
    files = AgentFiles(shared_lab.directory / "node", pins=bpffs / "licet")
    (files.directory / "run").mkdir(parents=True)
    container = container_of(objects)
    # where tests run, even root may not look into process 1: this process stands for it
    own = [part.replace("/proc/1/", f"/proc/{os.getpid()}/") for part in container["command"]]
    node = {
        "/run/licet": files.directory / "run",
        "/var/lib/licet": files.directory,
        "/sys/fs/bpf": bpffs,
        DOCKER: Path(runtime.settings["docker"]),
    }
    config = runtime_config(
        pod_of(objects),
        image,
        cgroup=shared_lab.outside_cgroup("kubepods") + f"/{POD}",
        host_paths=node,
        config_maps={"licet": settings.directory, "licet-policy": policy.directory},
        command=[*own, *container["args"]],
    )
    running = RunningAgent(shared_lab, files)
    try:
        running.start(command=runtime.command(POD, config))
        yield running
    finally:
        shutil.rmtree(bpffs / "licet", ignore_errors=True)


def refused(lab: Lab, uid: int) -> bool:
    return bool(lab.load(lab.host, "127.0.0.1", 7301, uid=uid)["errors"])


def sibling(runtime: Runtime, name: str) -> dict[str, int]:
    """Errors of one connection from a container of that name."""
    load = ["/load", runtime.lab.host.v4, "7301"]
    number = SIBLINGS[name]
    errors: dict[str, int] = runtime.call(number, load, cgroup=f"docker-{number}.scope", by_hand=False)[
        "errors"
    ]
    return errors


def test_a_command_runs_in_it(runtime: Runtime, agent: RunningAgent) -> None:
    assert __version__ in runtime.call_inside(POD, "licet", "version")
    status: dict[str, Any] = json.loads(runtime.call_inside(POD, "licet", "status", "--json"))
    assert (status["version"], status["ready"], status["mode"]) == (__version__, True, "observe")
    assert status["policy"]["targets"] == 1
    doctor = json.loads(runtime.call_inside(POD, "licet", "doctor", "--json"))
    assert [row["feature"] for row in doctor if row["required"] and not row["found"]] == []


def test_it_sees_and_names_processes_of_the_host_and_containers_beside_it(
    shared_lab: Lab, runtime: Runtime, agent: RunningAgent
) -> None:
    lab = shared_lab
    assert lab.load(lab.host, "127.0.0.1", 7301, uid=1002, cgroup="intruder.service")["errors"] == {}
    consumer = told(agent, {"type": "violation", "service": "db", "origin": "loopback"})["consumer"]
    assert (consumer["exe"], consumer["unit"]) == (str(lab.executable("load")), "intruder.service")
    assert sibling(runtime, "intruder") == {}
    event = told(agent, {"type": "violation", "consumer.container": "intruder"})
    assert (event["consumer"]["image"], event["owner"]["uid"]) == ("nginx:1.27", 1001)
    assert sibling(runtime, "web-1") == {}
    assert connections(agent, "db") == {
        ("loopback", "denied"): 1,
        ("container", "denied"): 1,
        ("container", "allowed"): 1,
    }


def test_the_fleets_toggle_is_followed(
    shared_lab: Lab, runtime: Runtime, agent: RunningAgent, policy: ConfigMap
) -> None:
    lab = shared_lab
    put(policy, lab, "enforce")
    wait_for(lambda: refused(lab, 1002), "the unlicensed process is refused")
    assert not refused(lab, 1001)
    assert sibling(runtime, "intruder") == {"EPERM": 1}
    assert sibling(runtime, "web-1") == {}
    wait_for(lambda: lab.load(lab.remote, lab.host.v4, 7301)["errors"], "another host is refused, too")
    attached = {gate["gate"] for gate in agent.status()["gates"] if gate["attached_to"]}
    assert {"connect", "socket", "tc"} <= attached


def test_a_pod_that_is_told_to_let_go_leaves_nothing(
    shared_lab: Lab, runtime: Runtime, agent: RunningAgent
) -> None:
    assert refused(shared_lab, 1002)
    agent.terminate()
    assert pins_in(agent.files.pins) == []
    shown = shared_lab.call(shared_lab.host, ["tc", "filter", "show", "dev", "to-remote", "ingress"])
    assert shown.stdout == ""
    assert not refused(shared_lab, 1002)
    assert sibling(runtime, "intruder") == {}


def test_it_is_one_layer_with_no_compiler_beside_bccs(image: Unpacked) -> None:
    assert image.layers == 1
    assert image.config["Labels"]["org.opencontainers.image.version"] == __version__
    found = {path.name for folder in ("usr/bin", "usr/local/bin") for path in (image.root / folder).iterdir()}
    assert not {"gcc", "cc", "clang", "ld", "make", "pip", "pip3"} & found
    assert not list((image.root / "var/lib/apt/lists").glob("*_Packages"))
