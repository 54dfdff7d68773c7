"""The first connect of a network namespace that has just been made, by a principal that its addresses say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.bench.policies import policy_of_grants
from tests.e2e.test_at_exec import hears_of_starts
from tests.fixtures import namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.names import new_name
from tests.fixtures.namespaces import Link, Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections
from tests.fixtures.waiting import SLOWER, wait_for

PORT, OTHER_PORT = 7361, 7362
SERVER = "10.79.4.1"
FRESH = 50
STARTS_MS = int(100 * SLOWER)
"""What a program takes until it connects. Looking at its namespace takes milliseconds, more where others have
the processors."""
GRANTS = 10_000


def policy(version: int = 0) -> str:
    """With 10,000 other grants, so that a reload takes a while."""
    large: dict[str, Any] = json.loads(policy_of_grants(GRANTS, port=OTHER_PORT, consumer=Path("/opt/x")))
    large["services"]["db"] = {"product": "db", "ports": [{"port": PORT, "class": "internal"}]}
    large["principals"]["containers"] = [{"cidr": "10.79.4.0/24"}]
    use = {"id": "use", "principals": ["containers"]}
    large["licenses"].append({"id": "db", "product": "db", "entitlements": [use]})
    large["principals"]["version"] = [{"uid": 70_000 + version}]
    large["enforcement"] = {"db": "enforce"}
    return json.dumps(large)


@contextmanager
def reloading(agent: RunningAgent) -> Iterator[list[int]]:
    """Again and again, meanwhile; how often is known behind the block."""
    done, stop = [0], threading.Event()

    def reload() -> None:
        while not stop.is_set():
            done[0] += 1
            agent.set_policy(policy(done[0]), timeout_s=60)

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join(60 * SLOWER)


@pytest.fixture
def bridge(lab: Lab) -> str:
    name = "fresh"
    inside = ("-n", lab.host.name)
    namespaces.ip(*inside, "link", "add", name, "type", "bridge")
    namespaces.ip(*inside, "address", "add", f"{SERVER}/24", "dev", name)
    namespaces.ip(*inside, "link", "set", name, "up")
    return name


def make(lab: Lab, bridge: str, place: Namespace, number: int) -> None:
    """As a network plugin does: the address comes last."""
    namespaces.create(place)
    host_end = f"fresh-{number}"
    namespaces.join(Link(lab.host, host_end, ()), Link(place, "eth0", ()))
    namespaces.ip("-n", lab.host.name, "link", "set", host_end, "master", bridge)
    namespaces.ip("-n", place.name, "address", "add", f"{place.v4}/24", "dev", "eth0")


@pytest.mark.parametrize("reloads", [True, False], ids=["while-reloads-run", "at-rest"])
def test_no_first_connect_of_a_new_namespace_is_refused(lab: Lab, bridge: str, reloads: bool) -> None:
    fresh = [Namespace(f"{new_name()}-{n}", f"10.79.4.{n + 2}", "") for n in range(FRESH)]
    scope = [str(each.path) for each in (lab.host, *fresh)]
    settings = {"scope": {"namespaces": scope}, "intervals": {"reconcile": 3600}}
    lab.serve(lab.host, "0.0.0.0", PORT)
    try:
        with lab.agent(policy(), settings, start=False) as agent:
            agent.start(timeout_s=60)
            wait_for(lambda: hears_of_starts(agent), "the tracepoint is attached", timeout_s=60)
            with reloading(agent) if reloads else nullcontext([2]) as done:
                refused = [n for n, one in enumerate(fresh) if not first_connect(lab, bridge, one, n)]
            assert done[0] > 1
            assert refused == []
            assert connections(agent, "db") == {("container", "allowed"): FRESH}
    finally:
        for one in fresh:
            namespaces.remove(one.name)


def first_connect(lab: Lab, bridge: str, place: Namespace, number: int) -> bool:
    make(lab, bridge, place, number)
    after = ("--after", str(STARTS_MS))
    return bool(lab.load(place, SERVER, PORT, options=after)["ok"] == 1)
