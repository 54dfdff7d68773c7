"""A container that has ended gives its addresses back at once: who has them next is not its service."""

from __future__ import annotations

import shutil

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.podman import Podman
from tests.fixtures.saying import connections
from tests.fixtures.waiting import wait_for

pytestmark = pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")

IMAGE, PORT = "localhost/shop:1", 7531
POLICY = f"""
version: 1
services:
  db: {{product: acme, at: {{container: db}}, ports: [{{port: {PORT}, class: internal}}]}}
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]}}
"""


def test_what_has_the_address_of_an_ended_container_is_not_its_service(shared_lab: Lab) -> None:
    lab = shared_lab
    podman = Podman(lab)
    podman.make_image(IMAGE)
    podman.start("db", IMAGE, ["/load", "--serve", "127.0.0.1", str(PORT)])
    lab.serve(lab.container, lab.container.v4, PORT)  # stands for the container that comes next
    # nothing else makes the agent look
    settings = {"containers": podman.settings, "intervals": {"reconcile": 3600}}
    with lab.agent(POLICY, settings) as agent:
        agent.wait_until_it_stands_by()

        def counted() -> float:
            return sum(connections(agent, "db").values())

        def is_judged_as_db() -> bool:
            before = counted()
            lab.load(lab.host, lab.container.v4, PORT)
            return counted() > before

        assert is_judged_as_db()
        podman.call("rm", "--force", "--time=0", "db")
        wait_for(lambda: not is_judged_as_db(), "the address is nobody's")
