"""Containers of a real podman: what it writes is what names them, from the first connect on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.podman import Podman
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, told
from tests.fixtures.waiting import wait_for

pytestmark = pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")

IMAGE, BY_NAME, BY_IMAGE, HOME = "localhost/shop:1", 7511, 7512, 7513
POLICY = f"""
version: 1
services:
  by-name: {{product: acme, on_unresolved: deny, ports: [{{port: {BY_NAME}, class: internal}}]}}
  by-image: {{product: acme, on_unresolved: deny, ports: [{{port: {BY_IMAGE}, class: internal}}]}}
  at-home: {{product: acme, at: {{container: db}}, ports: [{{port: {HOME}, class: internal}}]}}
principals:
  web: [{{container: web-*}}]
  shop: [{{container: {{image: "localhost/shop:*"}}}}]
licenses:
  - id: acme
    product: acme
    entitlements:
      - {{id: name, services: [by-name], principals: [web]}}
      - {{id: image, services: [by-image], principals: [shop]}}
      - {{id: home, services: [at-home], principals: [anyone]}}
"""


@pytest.fixture(scope="module")
def podman(shared_lab: Lab) -> Podman:
    made = Podman(shared_lab)
    made.make_image(IMAGE)
    return made


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, podman: Podman) -> Iterator[RunningAgent]:
    lab = shared_lab
    for port in (BY_NAME, BY_IMAGE):
        lab.serve(lab.host, lab.host.v4, port)
    with lab.agent(POLICY, settings={"containers": podman.settings}) as running:
        yield running


def test_a_container_is_licensed_by_name_and_by_image_from_its_first_connect(
    agent: RunningAgent, podman: Podman
) -> None:
    host = podman.lab.host.v4
    assert podman.load("web-1", IMAGE, host, BY_NAME)["ok"] == 1
    assert podman.load("nightly", IMAGE, host, BY_IMAGE)["ok"] == 1
    assert connections(agent, "by-name") == {("container", "allowed"): 1}
    assert connections(agent, "by-image") == {("container", "allowed"): 1}


def test_another_container_is_denied_and_named(agent: RunningAgent, podman: Podman) -> None:
    assert podman.load("intruder", IMAGE, podman.lab.host.v4, BY_NAME)["ok"] == 1
    event = told(agent, {"type": "violation", "service": "by-name", "consumer.container": "intruder"})
    assert event["reason"] == "unlicensed_principal"
    assert (event["consumer"]["runtime"], event["consumer"]["image"]) == ("podman", IMAGE)
    assert agent.total("licet_violations_by_consumer_total", consumer="intruder") == 1


def test_a_service_at_a_container_is_where_the_container_is(agent: RunningAgent, podman: Podman) -> None:
    lab = podman.lab
    podman.start("db", IMAGE, ["/load", "--serve", "0.0.0.0", str(HOME)])

    def protected() -> bool:
        lab.load(lab.host, lab.container.v4, HOME)
        return bool(connections(agent, "at-home"))

    wait_for(protected, "the service is at the container")
    podman.call("rm", "--force", "--time=0", "db")


def test_status_says_where_podman_keeps_its_state(agent: RunningAgent, podman: Podman) -> None:
    assert agent.status()["containers"]["state"]["cri-o, podman"] == podman.settings["storage"][0]
