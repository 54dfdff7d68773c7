"""The image in a real runtime, as the chart's pod: it sees, names, judges and refuses who is outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from tests.fixtures import processes
from tests.fixtures.config_map import ConfigMap
from tests.fixtures.crun import Runtime, client
from tests.fixtures.lab import ROOT, Lab
from tests.fixtures.leftovers import pins_in
from tests.fixtures.pinned import pinned, still_there
from tests.fixtures.running_agent import AgentFiles, RunningAgent
from tests.fixtures.saying import connections, told
from tests.fixtures.waiting import wait_for
from tests.image.oci import Unpacked
from tests.image.pod import runtime_config
from tests.packaging.chart import Object, container_of, one, pod_of, render

POD, NEXT_POD = "licet-x7f2c", "licet-q9d4m"
DOCKER = "/var/lib/docker/containers"
CAPABILITIES = {"DAC_READ_SEARCH": 2, "NET_BROADCAST": 11, "NET_ADMIN": 12, "SYS_PTRACE": 19, "SYS_ADMIN": 21}
"""linux/capability.h"""
SIBLINGS = {"web-1": "a" * 64, "intruder": "b" * 64}
SERVICES = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7301, class: internal}]}
principals: {licensed: [{uid: 1001}, {container: web-*}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
"""


def values(lab: Lab, mode: str, *, unload_on_stop: bool = False) -> Object:
    return {
        "unloadOnStop": unload_on_stop,
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


@dataclass(frozen=True, slots=True)
class Node:
    """What of it the agent's pods share."""

    runtime: Runtime
    policy: ConfigMap
    bpffs: Path
    image: Unpacked
    agent: RunningAgent

    def start(self, pod: str, *, unload_on_stop: bool) -> None:
        lab, files = self.runtime.lab, self.agent.files
        objects = render(values(lab, "observe", unload_on_stop=unload_on_stop))
        settings = ConfigMap(lab.directory / f"mounted-in-{pod}")
        settings.put(one(objects, "ConfigMap")["data"])
        container = container_of(objects)
        # where tests run, even root may not look into process 1: this process stands for it
        own = [part.replace("/proc/1/", f"/proc/{os.getpid()}/") for part in container["command"]]
        config = runtime_config(
            pod_of(objects),
            self.image,
            cgroup=lab.outside_cgroup("kubepods") + f"/{pod}",
            host_paths={
                "/run/licet": files.control.parent,
                "/var/lib/licet": files.directory,
                "/sys/fs/bpf": self.bpffs,
                DOCKER: Path(self.runtime.settings["docker"]),
            },
            config_maps={"licet": settings.directory, "licet-policy": self.policy.directory},
            command=[*own, *container["args"]],
        )
        self.agent.start(command=self.runtime.command(pod, config))


@pytest.fixture(scope="module")
def node(
    shared_lab: Lab, runtime: Runtime, policy: ConfigMap, bpffs: Path, image: Unpacked
) -> Iterator[Node]:
    """With a server, and the agent's first pod."""
    server = shared_lab.serve(shared_lab.host, "::", 7301, uid=1001)
    files = AgentFiles(shared_lab.directory / "node", pins=bpffs / "licet")
    files.control.parent.mkdir(parents=True)
    made = Node(runtime, policy, bpffs, image, RunningAgent(shared_lab, files))
    try:
        made.start(POD, unload_on_stop=False)
        yield made
    finally:
        shutil.rmtree(bpffs / "licet", ignore_errors=True)
        processes.end(server)


@pytest.fixture(scope="module")
def agent(node: Node) -> RunningAgent:
    return node.agent


def refused(lab: Lab, uid: int) -> bool:
    return bool(lab.load(lab.host, "127.0.0.1", 7301, uid=uid)["errors"])


def sibling(runtime: Runtime, name: str) -> dict[str, int]:
    """Errors of one connection from a container of that name."""
    load = client(runtime.lab.host.v4, 7301)
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


def test_it_may_what_the_chart_says_and_no_more(shared_lab: Lab, agent: RunningAgent) -> None:
    process = Path(f"/proc/{agent.status()['pid']}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    wanted = container_of(render(values(shared_lab, "observe")))["securityContext"]["capabilities"]["add"]
    assert int(status["CapBnd"], 16) == sum(1 << CAPABILITIES[name] for name in wanted)
    assert status["CapEff"] == status["CapBnd"]
    assert status["Seccomp"] == "2", "a filter is in force"
    (root,) = (line for line in (process / "mountinfo").read_text().splitlines() if line.split()[4] == "/")
    assert "ro" in root.split()[5].split(",")


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
    # a new pod's first gates are compiled before
    wait_for(lambda: refused(lab, 1002), "the unlicensed process is refused", timeout_s=60)
    assert not refused(lab, 1001)
    assert sibling(runtime, "intruder") == {"EPERM": 1}
    assert sibling(runtime, "web-1") == {}
    wait_for(lambda: lab.load(lab.remote, lab.host.v4, 7301)["errors"], "another host is refused, too")
    attached = {gate["gate"] for gate in agent.status()["gates"] if gate["attached_to"]}
    assert {"connect", "socket", "tc"} <= attached
    assert list((agent.files.directory / "programs").iterdir()), "the node keeps what a pod has compiled"


def test_a_pod_that_ends_lets_nothing_through_and_the_next_one_counts_on(
    shared_lab: Lab, node: Node, agent: RunningAgent
) -> None:
    counted = sum(connections(agent, "db").values())
    assert agent.terminate() == 0
    assert refused(shared_lab, 1002)
    assert not refused(shared_lab, 1001)
    assert shared_lab.load(shared_lab.remote, shared_lab.host.v4, 7301)["errors"] == {"ECONNREFUSED": 1}
    node.start(NEXT_POD, unload_on_stop=True)
    assert sum(connections(agent, "db").values()) == counted + 3
    assert refused(shared_lab, 1002)


def test_a_pod_that_is_told_to_let_go_leaves_nothing(
    shared_lab: Lab, runtime: Runtime, agent: RunningAgent
) -> None:
    programs, maps = pinned(agent.files.pins)
    assert agent.terminate() == 0
    assert pins_in(agent.files.pins) == []
    wait_for(lambda: not still_there(programs, maps), "the kernel has freed programs and maps")
    shown = shared_lab.call(shared_lab.host, ["tc", "filter", "show", "dev", "to-remote", "ingress"])
    assert shown.stdout == ""
    assert not refused(shared_lab, 1002)
    assert sibling(runtime, "intruder") == {}


def test_it_has_no_compiler_beside_bccs_and_an_upgrade_moves_little(image: Unpacked) -> None:
    system, dependencies, licet = image.layers
    assert licet < 20e6 < 25e6 < system < dependencies  # cryptography is 4 MB of the first
    assert image.config["Labels"]["org.opencontainers.image.version"] == __version__
    found = {path.name for folder in ("usr/bin", "usr/local/bin") for path in (image.root / folder).iterdir()}
    assert not {"gcc", "cc", "clang", "ld", "make", "pip", "pip3"} & found
    assert not list((image.root / "var/lib/apt/lists").glob("*_Packages"))
    assert not (image.root / "package").exists()
    assert (image.root / "mnt").is_dir()


def test_what_runs_in_it_is_this_checkout(image: Unpacked) -> None:
    sources = [path.relative_to(ROOT) for path in (ROOT / "agent").rglob("*.py")]
    assert len(sources) > 100
    for path in sources:
        assert (image.root / "opt/licet" / path).read_bytes() == (ROOT / path).read_bytes(), path


def test_it_has_debians_security_updates_and_copyrights(image: Unpacked) -> None:
    sources = (image.root / "etc/apt/sources.list").read_text()
    assert "trixie-security" in sources
    assert (image.root / "usr/share/doc/python3-bpfcc/copyright").exists()
    assert (image.root / "usr/share/doc/licet/copyright").exists()
