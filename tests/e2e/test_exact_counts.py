"""A hundred thousand attempts, two programs, 32 clients at once: the counters say exactly what was made."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.lab import Lab, load_program
from tests.fixtures.names import new_name
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, lost, matching, told, violations
from tests.fixtures.waiting import wait_for

WORKERS = 4
STEADY, CRASHING = 6500, 6600
POLICY = """\
version: 1
services:
  steady: {{product: acme, ports: [{{port: 6500, class: internal}}]}}
  crashing: {{product: acme, ports: [{{port: 6600, class: internal}}]}}
  crossing: {{product: acme, ports: [{{port: 6800, class: internal}}]}}
  prefork: {{product: acme, ports: [{{port: 6700, class: internal}}], owner: [{{exe: {server}}}]}}
principals:
  licensed: [{{exe: {licensed}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    lab = shared_lab
    policy = POLICY.format(licensed=lab.executable("opt/licensed"), server=lab.executable("opt/server"))
    settings = {"acceptor": "always", "intervals": {"summary": 1, "reconcile": 1}}
    with lab.agent(policy, settings) as running:
        yield running


def start_load(lab: Lab, program: str, port: int, count: int) -> subprocess.Popen[str]:
    argv = [lab.executable(program), "127.0.0.1", str(port), "--connections", str(count)]
    return lab.run(lab.host, [*argv, "--clients", "32", "--sources", "16"], uid=1001)


def all_went_through(process: subprocess.Popen[str], count: int) -> None:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert (said["attempts"], said["ok"], said["errors"]) == (count, count, {})


def flows_by_pid(agent: RunningAgent, service: str) -> dict[int, int]:
    rows = agent.control("GET", "/v1/acceptors")
    return {row["pid"]: row["flows"] for row in rows if row["service"] == service}


def children(process: subprocess.Popen[str]) -> set[int]:
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as listed:
        return {int(pid) for pid in listed.read().split()}


def test_100000_attempts_are_counted_exactly_and_both_ends_are_named(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    lab = shared_lab
    server = lab.serve(lab.host, "127.0.0.1", STEADY, program=lab.executable("opt/server"), workers=WORKERS)
    licensed = start_load(lab, "opt/licensed", STEADY, 90_000)
    stranger = start_load(lab, "opt/stranger", STEADY, 10_000)
    all_went_through(stranger, 10_000)
    all_went_through(licensed, 90_000)

    assert connections(agent, "steady") == {
        ("loopback", "allowed"): 90_000,
        ("loopback", "denied"): 10_000,
    }
    assert violations(agent, "steady") == {"unlicensed_principal": 10_000}
    assert all_closed(agent, "steady") == 100_000
    use = told(agent, {"type": "use", "service": "steady", "consumer.pid": licensed.pid})
    violation = told(agent, {"type": "violation", "service": "steady", "consumer.pid": stranger.pid})
    assert use["consumer"]["exe"] == str(lab.executable("opt/licensed"))
    assert violation["consumer"]["exe"] == str(lab.executable("opt/stranger"))
    assert {use["owner"]["pid"], violation["owner"]["pid"]} <= {server.pid, *children(server)}
    by_worker = flows_by_pid(agent, "steady")
    assert set(by_worker) == children(server)
    assert sum(by_worker.values()) == 100_000


def test_events_and_summaries_add_up_to_the_attempts(shared_lab: Lab, agent: RunningAgent) -> None:
    """Goes on from the test before: what was told of a use is its exact count, once it has ended."""
    for exe, count in (("opt/licensed", 90_000), ("opt/stranger", 10_000)):
        expected = {"service": "steady", "consumer.exe": str(shared_lab.executable(exe))}

        def told_of(expected: dict[str, object] = expected) -> int:
            return sum(
                event["counts"]["attempts"] if event["type"] == "summary" else 1
                for event in matching(agent, expected)
            )

        wait_for(lambda told_of=told_of, count=count: told_of() >= count, f"{exe} is told of in full")
        assert told_of() == count


class Going:
    """Connections, a thousand at a time, until told to end: a daemon may be away for as long as it takes."""

    def __init__(self, lab: Lab, place: Namespace, program: str, address: str, port: int, rate: int) -> None:
        self._flag = lab.directory / f"{new_name()}-goes"
        self._flag.touch()
        argv = [lab.executable(program), address, str(port), "--connections", "1000", "--clients", "16"]
        argv += ["--rate", str(rate), *(["--sources", "16"] if address == "127.0.0.1" else [])]
        loop = 'flag=$1; shift; while [ -e "$flag" ]; do "$@"; done'
        self._process = lab.run(place, ["sh", "-c", loop, "sh", self._flag, *argv], uid=1001)

    def end(self) -> int:
        """How many there were; all went through."""
        self._flag.unlink()
        out, err = self._process.communicate(timeout=120)
        said = [json.loads(line) for line in out.splitlines()]
        assert all(one["errors"] == {} and one["ok"] == one["attempts"] for one in said), (said, err)
        return sum(one["ok"] for one in said)


def kill_and_start(agent: RunningAgent, service: str) -> None:
    """In the middle: connections are made before, meanwhile and after."""
    before = connections(agent, service)
    wait_for(lambda: connections(agent, service) != before, "connections are under way")
    agent.kill9()
    agent.start()
    after = connections(agent, service)
    wait_for(lambda: connections(agent, service) != after, "they still are")


def test_a_daemon_killed_in_the_middle_loses_no_attempt(shared_lab: Lab, agent: RunningAgent) -> None:
    lab = shared_lab
    server = lab.serve(lab.host, "127.0.0.1", CRASHING, program=lab.executable("opt/server"), workers=WORKERS)
    loads = [
        Going(lab, lab.host, program, "127.0.0.1", CRASHING, rate)
        for program, rate in (("opt/licensed", 7_500), ("opt/stranger", 800))
    ]
    kill_and_start(agent, "crashing")
    licensed, stranger = (load.end() for load in loads)

    assert connections(agent, "crashing") == {
        ("loopback", "allowed"): licensed,
        ("loopback", "denied"): stranger,
    }
    assert violations(agent, "crashing") == {"unlicensed_principal": stranger}
    assert all_closed(agent, "crashing") == licensed + stranger
    by_worker = flows_by_pid(agent, "crashing")
    assert set(by_worker) == children(server)
    assert sum(by_worker.values()) == licensed + stranger


def test_a_daemon_killed_in_the_middle_counts_nothing_twice_across_namespaces(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    """Their two ends close at different moments: a look at the sockets then sees one end only."""
    lab = shared_lab
    lab.serve(lab.host, lab.host.v4, 6800, program=lab.executable("opt/server"), workers=WORKERS)
    loads = [
        Going(lab, place, "opt/stranger", lab.host.v4, 6800, 800) for place in (lab.container, lab.remote)
    ]
    for _ in range(2):
        kill_and_start(agent, "crossing")
    container, remote = (load.end() for load in loads)
    assert connections(agent, "crossing") == {
        ("container", "denied"): container,
        ("remote", "denied"): remote,
    }
    assert all_closed(agent, "crossing") == container + remote


def test_nothing_was_lost_and_nothing_had_to_be_reconciled(agent: RunningAgent) -> None:
    assert lost(agent) == {}
    assert agent.status()["flows"]["closed_by_reconciliation"] == 0


def holders(listener: dict[str, Any], port: int) -> set[int]:
    """Processes that hold this listener; nobody's, if it is another port's."""
    return {owner["pid"] for owner in listener["owners"]} if listener["port"] == port else set()


def test_each_prefork_worker_is_named_with_what_it_served(shared_lab: Lab, agent: RunningAgent) -> None:
    lab = shared_lab
    server = lab.serve(lab.host, "127.0.0.1", 6700, program=lab.executable("opt/server"), workers=WORKERS)
    options = ["--clients", "16"]
    lab.load(lab.host, "127.0.0.1", 6700, connections=1_000, program=load_program(), options=options)
    by_worker = flows_by_pid(agent, "prefork")
    assert set(by_worker) <= children(server)
    assert sum(by_worker.values()) == 1_000
    assert server.pid not in by_worker
    everybody = {server.pid, *children(server)}
    listener = wait_for(
        # the look that listen() asked for may have been before the workers were there
        lambda: next((one for one in agent.listeners() if holders(one, 6700) == everybody), None),
        "every process that holds the listener is listed",
    )
    assert listener["states"] == ["declared"]
    held = lab.run(lab.host, [load_program(), "127.0.0.1", "6700", "--connections", "1", "--hold", "60000"])
    flow = wait_for(
        lambda: next((one for one in agent.flows() if one["acceptor"] and one["service"] == "prefork"), None),
        "the flow's worker is known",
    )
    assert flow["consumer"]["pid"] == held.pid
    assert flow["owner"]["exe"] == flow["acceptor"]["exe"] == str(lab.executable("opt/server"))
    assert flow["acceptor"]["pid"] in children(server)
