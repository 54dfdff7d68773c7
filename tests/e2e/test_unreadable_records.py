"""What the daemon has stored, and cannot read at its start: it tries again on its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.vendor import Vendor
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services: {orders: {product: acme-orders, ports: [{port: 7710, class: internal}]}}
"""
ACME = Vendor()


@pytest.fixture
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY) as running:
        ACME.pin(running.files.keys)
        running.files.licenses.mkdir()
        yield running


def state(agent: RunningAgent) -> str:
    """Of the file; its copy may hold instead."""
    listed = agent.control("GET", "/v1/licenses")["licenses"]
    return next((str(one["state"]) for one in listed if not one["is_copy"]), "")


def trouble(agent: RunningAgent) -> str:
    return str(agent.status()["troubles"].get("licenses", ""))


def test_serials_that_can_be_read_later_count_again(agent: RunningAgent) -> None:
    document = agent.files.licenses / "a.json"
    document.write_bytes(ACME.sign(ACME.license(serial=7)))
    wait_for(lambda: state(agent) == "valid", "serial 7 holds", timeout_s=20)
    agent.terminate()
    serials = agent.files.directory / "state/licenses/serials.json"
    aside = agent.files.directory / "aside"
    serials.rename(aside)
    serials.symlink_to(serials.name)  # a link to itself: ELOOP
    document.write_bytes(ACME.sign(ACME.license(serial=6)))
    agent.start()
    wait_for(lambda: "serials.json: cannot be read" in trouble(agent), "trouble licenses")
    assert serials.is_symlink()
    serials.unlink()
    aside.rename(serials)
    wait_for(lambda: state(agent) == "superseded", "serial 7 is known again", timeout_s=40)
    wait_for(lambda: not trouble(agent), "no trouble")
