"""The shipped recipe, enforced: who looks after a service goes on, and a stranger is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.crun import Runtime, client
from tests.fixtures.lab import ROOT, Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections

RECIPE = (ROOT / "packaging" / "examples" / "probes.yaml").read_text()
CRI = "io.kubernetes.cri"
USE, HEALTH, METRICS = 8080, 8081, 9100


@pytest.fixture(scope="module")
def runtime(shared_lab: Lab) -> Runtime:
    made = Runtime(shared_lab)
    for number, pod, namespace in (("1" * 64, "prometheus-0", "monitoring"), ("2" * 64, "cart-0", "shop")):
        annotations = {f"{CRI}.sandbox-name": pod, f"{CRI}.sandbox-namespace": namespace}
        made.write_containerd(number, annotations)
    return made


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, runtime: Runtime) -> Iterator[RunningAgent]:
    lab = shared_lab
    policy = RECIPE.replace("default: observe", "default: enforce").replace(
        "{cidr: 35.191.0.0/16}", f"{{cidr: {lab.remote.v4}/32}}"
    )
    for port in (USE, HEALTH, METRICS):
        lab.serve(lab.host, "::", port)
    with lab.agent(policy, {"containers": runtime.settings}) as running:
        yield running


def probe(lab: Lab, port: int, unit: str) -> dict[str, int]:
    return lab.load(lab.host, lab.host.v4, port, cgroup=unit)["errors"]


def scrape(runtime: Runtime, number: str) -> dict[str, int]:
    load = client(runtime.lab.host.v4, METRICS)
    errors: dict[str, int] = runtime.call(
        number, load, cgroup=f"kubepods/cri-containerd-{number}.scope", by_hand=False
    )["errors"]
    return errors


def test_who_looks_after_a_service_goes_on(shared_lab: Lab, runtime: Runtime, agent: RunningAgent) -> None:
    lab = shared_lab
    for port in (USE, HEALTH):
        assert probe(lab, port, "kubelet.service") == {}
    assert scrape(runtime, "1" * 64) == {}
    assert lab.load(lab.remote, lab.host.v4, USE)["errors"] == {}
    assert {decision for _, decision in connections(agent, "shop-api")} == {"allowed"}


def test_a_stranger_is_refused(shared_lab: Lab, runtime: Runtime, agent: RunningAgent) -> None:
    lab = shared_lab
    assert probe(lab, HEALTH, "cron.service") == {"EPERM": 1}
    assert probe(lab, METRICS, "kubelet.service") == {"EPERM": 1}
    assert scrape(runtime, "2" * 64) == {"EPERM": 1}
    assert lab.load(lab.remote, lab.host.v4, HEALTH)["errors"] == {"ECONNREFUSED": 1}
