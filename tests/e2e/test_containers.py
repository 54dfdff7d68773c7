"""Containers made by crun: named in what is told, licensed by name from the first connect on, and homes of
services."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import cgroups
from tests.fixtures.cri.recorded import crio
from tests.fixtures.cri.server import Runtime as Cri
from tests.fixtures.crun import Runtime, client
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since, told
from tests.fixtures.waiting import wait_for

pytestmark = pytest.mark.skipif(not shutil.which("crun"), reason="crun is not installed")

BY_NAME, BY_IMAGE, BY_POD, BANNED, HOME = 7501, 7502, 7503, 7504, 7505
POLICY = f"""
version: 1
services:
  by-name: {{product: acme, on_unresolved: deny, ports: [{{port: {BY_NAME}, class: internal}}]}}
  by-image: {{product: acme, on_unresolved: deny, ports: [{{port: {BY_IMAGE}, class: internal}}]}}
  by-pod: {{product: acme, on_unresolved: deny, ports: [{{port: {BY_POD}, class: internal}}]}}
  banned: {{product: acme, ports: [{{port: {BANNED}, class: internal}}]}}
  at-home: {{product: acme, at: {{container: db}}, ports: [{{port: {HOME}, class: internal}}]}}
principals:
  web: [{{container: web-*}}]
  nginx: [{{container: {{image: "nginx:*"}}}}]
  shop: [{{container: {{namespace: shop, pod: cart-*}}}}]
licenses:
  - id: acme
    product: acme
    entitlements:
      - {{id: name, services: [by-name], principals: [web]}}
      - {{id: image, services: [by-image], principals: [nginx]}}
      - {{id: pod, services: [by-pod], principals: [shop]}}
      - {{id: all, services: [banned, at-home], principals: [anyone]}}
restrictions: [{{exclude: web, target: banned}}]
"""


def number_of(name: str) -> str:
    """An id as a daemon gives: 64 hex digits."""
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture(scope="module")
def runtime(shared_lab: Lab) -> Runtime:
    return Runtime(shared_lab)


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, runtime: Runtime) -> Iterator[RunningAgent]:
    lab = shared_lab
    for port in (BY_NAME, BY_IMAGE, BY_POD, BANNED):
        lab.serve(lab.host, lab.host.v4, port)
    with lab.agent(POLICY, settings={"containers": runtime.settings}) as running:
        yield running


def verdicts(agent: RunningAgent, service: str, before: dict[tuple[str, str], float]) -> dict[str, float]:
    return {decision: count for (_, decision), count in since(before, agent, service).items()}


def run(agent: RunningAgent, runtime: Runtime, service: str, port: int, number: str, **how: Any) -> Any:
    before = connections(agent, service)
    made = runtime.call(number, client(runtime.lab.host.v4, port), **how)
    assert made["ok"] == 1
    return verdicts(agent, service, before)


def test_a_container_made_by_hand_is_licensed_by_its_name_from_its_first_connect(
    agent: RunningAgent, runtime: Runtime
) -> None:
    for attempt in range(5):
        name = f"web-{attempt}"
        assert run(agent, runtime, "by-name", BY_NAME, name, cgroup=name) == {"allowed": 1}
        told(agent, {"type": "use", "service": "by-name", "consumer.container": name, "reason": "licensed"})


def test_another_container_is_denied_and_named(agent: RunningAgent, runtime: Runtime) -> None:
    assert run(agent, runtime, "by-name", BY_NAME, "cache", cgroup="cache") == {"denied": 1}
    event = told(agent, {"type": "violation", "service": "by-name", "consumer.container": "cache"})
    assert (event["reason"], event["consumer"]["runtime"]) == ("unlicensed_principal", "crun")
    assert agent.total("licet_violations_by_consumer_total", service="by-name", consumer="cache") == 1
    assert "container=cache" in agent.log()


def test_dockers_containers_have_docker_names(agent: RunningAgent, runtime: Runtime) -> None:
    number = number_of("front")
    runtime.write_docker(number, "web-front", "nginx:1.25")
    how = {"cgroup": f"docker-{number}.scope", "by_hand": False}
    assert run(agent, runtime, "by-name", BY_NAME, number, **how) == {"allowed": 1}
    assert run(agent, runtime, "by-image", BY_IMAGE, number, **how) == {"allowed": 1}
    event = told(agent, {"type": "use", "service": "by-image", "consumer.container": "web-front"})
    expected = {"container_id": number, "image": "nginx:1.25", "runtime": "docker"}
    assert expected.items() <= event["consumer"].items()


def test_pods_are_named_and_selected_by_what_containerd_keeps(agent: RunningAgent, runtime: Runtime) -> None:
    for pod, expected in (("cart-0", "allowed"), ("mail-0", "denied")):
        number = number_of(pod)
        prefix = "io.kubernetes.cri"
        runtime.write_containerd(
            number,
            {
                f"{prefix}.container-name": "server",
                f"{prefix}.image-name": "registry.example/shop:1",
                f"{prefix}.sandbox-name": pod,
                f"{prefix}.sandbox-namespace": "shop",
            },
        )
        how = {"cgroup": f"kubepods/pod1/{number}", "by_hand": False}
        assert run(agent, runtime, "by-pod", BY_POD, number, **how) == {expected: 1}
        told(agent, {"service": "by-pod", "consumer.container": "server", "consumer.pod": f"shop/{pod}"})


def test_an_exclusion_speaks_of_containers_too(agent: RunningAgent, runtime: Runtime) -> None:
    assert run(agent, runtime, "banned", BANNED, "cache", cgroup="cache") == {"allowed": 1}
    assert run(agent, runtime, "banned", BANNED, "web-9", cgroup="web-9") == {"denied": 1}


def test_names_of_which_there_is_no_state_come_over_cri(shared_lab: Lab, runtime: Runtime) -> None:
    """From the first connect on: the runtime knows who it is before there is a cgroup."""
    lab, socket = shared_lab, shared_lab.directory / "cri.sock"
    answers = crio(number_of("cart"), "server", "cart-0", "shop", "registry.example/shop:1")
    answers = {**answers, **crio(number_of("mail"), "server", "mail-0", "shop", "registry.example/mail:1")}
    settings = {"containers": {**runtime.settings, "cri": str(socket)}}
    with Cri(socket, answers), lab.agent(POLICY, settings) as agent:
        for pod, expected in (("cart", "allowed"), ("mail", "denied")):
            number = number_of(pod)
            how = {"cgroup": f"kubepods/pod1/crio-{number}.scope", "by_hand": False}
            assert run(agent, runtime, "by-pod", BY_POD, number, **how) == {expected: 1}
            told(
                agent, {"service": "by-pod", "consumer.pod": f"shop/{pod}-0", "consumer.container": "server"}
            )
        assert agent.status()["containers"]["cri"]["runtime"] == "cri-o 1.31.0"
        assert f"CRI: cri-o 1.31.0 ({socket})" in " ".join(agent.licet("status").stdout.split())


def test_a_container_without_a_name_follows_on_unresolved_until_it_has_one(
    agent: RunningAgent, runtime: Runtime
) -> None:
    number = number_of("nameless")
    how = {"cgroup": f"docker-{number}.scope", "by_hand": False}
    assert run(agent, runtime, "by-name", BY_NAME, number, **how) == {"denied": 1}
    told(agent, {"type": "violation", "reason": "unresolved", "consumer.container": number[:12]})
    runtime.write_docker(number, "web-late", "nginx:1.25")

    def licensed() -> bool:
        return bool(run(agent, runtime, "by-name", BY_NAME, number, **how) == {"allowed": 1})

    wait_for(licensed, "it has a name")


def test_a_process_beside_containers_is_known_at_once(agent: RunningAgent, runtime: Runtime) -> None:
    lab = runtime.lab
    before = connections(agent, "by-name")
    assert lab.load(lab.host, lab.host.v4, BY_NAME, cgroup="fresh.service")["ok"] == 1
    assert verdicts(agent, "by-name", before) == {"denied": 1}
    unit = {"consumer.unit": "fresh.service", "service": "by-name"}
    assert told(agent, {"type": "violation", **unit})["reason"] in ("unlicensed_principal", "unresolved")


def test_a_forged_cgroup_has_no_name(agent: RunningAgent, runtime: Runtime) -> None:
    """Whoever has a delegated tree can make a directory there with any name."""
    lab = runtime.lab
    number = number_of("front")
    runtime.write_docker(number, "web-front", "nginx:1.25")
    delegated = lab.cgroup("user@1.service")
    os.chown(cgroups.directory(delegated), 1499, 1499)
    forged = f"user@1.service/docker-{number}.scope"
    before = connections(agent, "by-name")
    for _ in range(2):
        lab.load(lab.host, lab.host.v4, BY_NAME, cgroup=forged, uid=1499)
    assert verdicts(agent, "by-name", before) == {"denied": 2}


def test_a_service_at_a_container_is_where_the_container_is(agent: RunningAgent, runtime: Runtime) -> None:
    lab = runtime.lab
    assert not connections(agent, "at-home")
    server = runtime.start("db", ["/load", "--serve", "0.0.0.0", str(HOME)], cgroup="db")

    def protected() -> bool:
        lab.load(lab.host, lab.container.v4, HOME)
        return bool(connections(agent, "at-home"))

    wait_for(protected, "the service is at the container", timeout_s=10)
    before = connections(agent, "at-home")
    lab.load(lab.container, "127.0.0.1", HOME)
    assert verdicts(agent, "at-home", before) == {"allowed": 1}
    before = connections(agent, "at-home")
    lab.load(lab.host, lab.host.v4, HOME)
    assert verdicts(agent, "at-home", before) == {}, "the host's own port is another"
    cgroups.remove(f"{lab.scope}/db")
    server.wait(10)

    def gone() -> bool:
        before = connections(agent, "at-home")
        lab.load(lab.container, "127.0.0.1", HOME)
        return not verdicts(agent, "at-home", before)

    wait_for(gone, "the service is nowhere", timeout_s=20)


def test_status_says_whose_state_was_found(agent: RunningAgent, runtime: Runtime) -> None:
    found = agent.status()["containers"]
    assert found["state"]["docker"] == str(runtime.directory / "docker")
    assert found["state"]["runc"] == ""
    assert "docker (" in agent.licet("status").stdout
