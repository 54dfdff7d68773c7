"""What a container listens on is judged by who can reach it: itself, and through ports of the host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.podman import Podman
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import matching, told
from tests.fixtures.waiting import wait_for

pytestmark = pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")

IMAGE, OPEN, SHUT, PLAIN = "localhost/shop:1", 7521, 7522, 7523
POLICY = f"""
version: 1
services:
  open: {{product: acme, at: {{container: open}}, ports: [{{port: {OPEN}, class: internal}}]}}
  shut: {{product: acme, at: {{container: shut}}, ports: [{{port: {SHUT}, class: internal}}]}}
  plain: {{product: acme, at: {{container: plain}}, ports: [{{port: {PLAIN}, class: internal}}]}}
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]}}
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    podman = Podman(shared_lab)
    podman.make_image(IMAGE)
    settings = {
        "containers": podman.settings,
        "scope": {"namespaces": None},
        "intervals": {"reconcile": 1},
    }
    with shared_lab.agent(POLICY, settings) as running:
        podman.publish("open", IMAGE, f"1{OPEN}:{OPEN}", ["/load", "--serve", "0.0.0.0", str(OPEN)])
        podman.publish("shut", IMAGE, f"127.0.0.1:1{SHUT}:{SHUT}", ["/load", "--serve", "0.0.0.0", str(SHUT)])
        podman.start("plain", IMAGE, ["/load", "--serve", "0.0.0.0", str(PLAIN)])
        yield running
        podman.remove("open", "shut")


def listed(agent: RunningAgent, service: str, port: int) -> dict[str, Any]:
    def there() -> list[dict[str, Any]]:
        return [
            one
            for one in agent.listeners()
            if (one["service"], one["port"]) == (service, port) and one["owners"]
        ]

    return wait_for(there, f"what listens for {service} on {port} is listed")[0]


def test_what_every_image_listens_on_is_no_exposure(agent: RunningAgent) -> None:
    assert listed(agent, "plain", PLAIN)["states"] == ["declared"]
    assert matching(agent, {"type": "listener", "service": "plain"}) == []


def test_a_port_published_to_all_is_an_exposure_of_what_it_leads_to(agent: RunningAgent) -> None:
    wait_for(lambda: listed(agent, "open", OPEN)["states"] == ["exposed_port"], "it is exposed")
    event = told(agent, {"type": "listener", "service": "open", "port": OPEN})
    assert (event["reason"], event["class"]) == ("exposed_port", "internal")
    assert f"published at 0.0.0.0:1{OPEN}/tcp" in event["explanation"]
    held = listed(agent, "open", int(f"1{OPEN}"))
    assert (held["owners"][0]["comm"], held["states"]) == ("conmon", ["exposed_port"])
    assert agent.total("licet_exposures", service="open") == 2


def test_a_port_published_to_this_host_alone_is_none(agent: RunningAgent) -> None:
    held = listed(agent, "shut", int(f"1{SHUT}"))
    assert (held["owners"][0]["comm"], held["states"]) == ("conmon", ["declared"])
    assert listed(agent, "shut", SHUT)["states"] == ["declared"]
    assert agent.total("licet_exposures", service="shut") == 0
