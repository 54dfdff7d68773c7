"""Beside other tools' programs at the same hooks: neither is harmed, and what follows for us is said.

What hides or changes a connection on purpose is in test_gates_follow.py and test_load_balancer.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.daemon.reporting.coverage import CHANGED_ON_ITS_WAY
from tests.fixtures import neighbours, processes
from tests.fixtures.balancer import balancing
from tests.fixtures.clients import Client, dial
from tests.fixtures.lab import Lab
from tests.fixtures.neighbours import (
    ACTIVE_ESTABLISHED_CB,
    CONNECT_CB,
    PASSIVE_ESTABLISHED_CB,
    RTT_FLAG,
    STATE_FLAG,
    Tally,
)
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed

PORT, ELSEWHERE, LICENSED, STRANGER = 7401, 7409, 1001, 1002
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7401, class: internal}]}
principals:
  licensed: [{uid: 1001}, {cidr: 10.77.2.0/24}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce}
"""
AT_CONNECT, ESTABLISHED = (CONNECT_CB,), (ACTIVE_ESTABLISHED_CB, PASSIVE_ESTABLISHED_CB)


@pytest.fixture(scope="module")
def theirs(shared_lab: Lab) -> Iterator[Tally]:
    """Another tool's filter and qdisc, there before the agent, at the place ours likes best."""
    with neighbours.filtering(shared_lab.host, "to-remote", priority=1) as counted:
        yield counted


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, theirs: Tally) -> Iterator[RunningAgent]:
    """Servers and consumers are in the cgroup "pod" below its scope."""
    server = shared_lab.serve(shared_lab.host, "::", PORT, cgroup="pod")
    settings = {"scope": {"interfaces": ["lo", "to-*"]}, "intervals": {"reconcile": 1, "summary": 1}}
    with shared_lab.agent(POLICY, settings) as running:
        running.wait_until_it_stands_by()
        yield running
    processes.end(server)


@pytest.fixture(params=["before", "behind"])
def order(request: pytest.FixtureRequest) -> str:
    """Programs of a cgroup below run before ours; of the same, in the order of attaching."""
    return str(request.param)


def cgroup(lab: Lab, order: str) -> str:
    return lab.cgroup("pod") if order == "before" else lab.scope


class Since:
    """What was counted after this was made."""

    def __init__(self, agent: RunningAgent) -> None:
        self._agent = agent
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        names = ("connections", "flows_opened", "flows_closed", "refused")
        now = {name: self._agent.total(f"licet_{name}_total", service="db") for name in names}
        return now | {"unseen": self._agent.status()["flows"]["closed_by_reconciliation"]}

    def __getitem__(self, name: str) -> float:
        return self._now()[name] - self._before[name]


def note(agent: RunningAgent, hook: str) -> str:
    return str(next(one["note"] for one in agent.status()["hooks"] if one["hook"] == hook))


def judged_at_the_packet(lab: Lab, agent: RunningAgent, counted: Tally) -> None:
    """From the remote namespace: IPv4 is licensed, IPv6 is not, and the other tool sees every packet of both
    that ours has let through."""
    since, refused = Since(agent), agent.total("licet_refused_total", service="db", gate="tc")
    seen = counted[0]
    assert lab.load(lab.remote, lab.host.v4, PORT, connections=3)["errors"] == {}
    assert counted[0] - seen >= 3 * 4, "SYN, ACK, a byte, FIN"
    assert lab.load(lab.remote, lab.host.v6, PORT, connections=2)["errors"] == {"ECONNREFUSED": 2}
    assert agent.total("licet_refused_total", service="db", gate="tc") == refused + 2
    assert since["connections"] == 5
    all_closed(agent, "db")


def test_a_tc_filter_from_before_us_goes_on(shared_lab: Lab, agent: RunningAgent, theirs: Tally) -> None:
    judged_at_the_packet(shared_lab, agent, theirs)


@pytest.mark.parametrize("priority", [1, 50], ids=["before", "behind"])
def test_a_tc_filter_that_comes_later_is_no_harm(shared_lab: Lab, agent: RunningAgent, priority: int) -> None:
    """Of one priority the newest runs first; ours stays where it is."""
    with neighbours.filtering(shared_lab.host, "to-container", priority) as counted:
        container = Client(shared_lab, shared_lab.container, "plain", shared_lab.host.v4, PORT, uid=LICENSED)
        container.connect()
        assert container.close()["error"] == ""
        assert counted[0] >= 4
    all_closed(agent, "db")


def test_a_tcx_program_sees_all_and_ours_what_it_passes_on(shared_lab: Lab, agent: RunningAgent) -> None:
    try:
        attached = neighbours.on_tcx(shared_lab.host, "to-remote")
        counted = attached.__enter__()
    except OSError:
        pytest.skip("this kernel has no tcx (Linux 6.6)")
    try:
        (gate,) = [one for one in agent.status()["gates"] if one["gate"] == "tc"]
        assert "to-remote" in gate["note"]
        seen = counted[0]
        judged_at_the_packet(shared_lab, agent, counted)
        assert counted[0] - seen >= 3 * 4 + 2, "also the SYNs that ours refuses"
    finally:
        attached.__exit__(None, None, None)


def test_where_a_balancer_before_us_leads_is_what_is_judged(shared_lab: Lab, agent: RunningAgent) -> None:
    lab, host = shared_lab, shared_lab.host
    since = Since(agent)
    with balancing(lab.cgroup("pod"), ELSEWHERE, (host.v4, PORT)) as counted:
        errors = [
            dial(lab, host, "plain", "192.0.2.7", ELSEWHERE, uid=uid, cgroup="pod")["error"]
            for uid in (STRANGER, LICENSED)
        ]
        assert errors == ["EPERM", ""]
        assert counted[0] == 2
        assert "balancer" not in note(agent, "connect")
    assert since["connections"] == 2
    all_closed(agent, "db")


def test_where_a_balancer_behind_us_leads_is_judged_too(shared_lab: Lab, agent: RunningAgent) -> None:
    """By its process, where the kernel can tell; else by its address, as status says."""
    lab, host = shared_lab, shared_lab.host
    by_address = CHANGED_ON_ITS_WAY[0] in [one["what"] for one in agent.status()["not_covered"]]
    since = Since(agent)
    with balancing(lab.scope, ELSEWHERE, (host.v4, PORT)) as counted:
        assert "balancer" in note(agent, "connect")
        errors = [
            dial(lab, host, "plain", "192.0.2.7", ELSEWHERE, uid=uid)["error"] for uid in (STRANGER, LICENSED)
        ]
        assert errors == ["ECONNREFUSED", "ECONNREFUSED" if by_address else ""]
        assert counted[0] == 2
    assert "balancer" not in note(agent, "connect")
    assert since["connections"] == 2
    all_closed(agent, "db")


@pytest.mark.parametrize("flags", [0, RTT_FLAG, STATE_FLAG], ids=["nothing", "rtt", "state"])
@pytest.mark.parametrize("when", [AT_CONNECT, ESTABLISHED], ids=["at connect", "established"])
def test_a_close_is_counted_once_though_others_ask_as_if_alone(
    shared_lab: Lab, agent: RunningAgent, order: str, when: tuple[int, ...], flags: int
) -> None:
    """A flow from here and one from elsewhere. Nobody asks again where the other tool has the last word and
    wants nothing: there reconciliation finds the close."""
    lab, host = shared_lab, shared_lab.host
    since = Since(agent)
    with neighbours.asking_for(flags, when, cgroup(lab, order)) as counted:
        assert ("asks_alone" in note(agent, "flow")) == (order == "behind")
        local = Client(lab, host, "plain", host.v4, PORT, uid=LICENSED, cgroup="pod")
        remote = Client(lab, lab.remote, "plain", host.v4, PORT)
        for client in (local, remote):
            client.connect()
        assert len([flow for flow in agent.flows() if flow["service"] == "db"]) == 2
        for client in (local, remote):
            assert client.close()["error"] == ""
        all_closed(agent, "db", timeout_s=60)
        assert counted[0] == (1 if when == AT_CONNECT else 3), "the consumer's socket; and the server's two"
        assert (counted[1] > 0) == (flags == RTT_FLAG), "it gets what it asked for"
    assert (since["connections"], since["flows_opened"], since["flows_closed"]) == (2, 2, 2)
    hidden = order == "behind" and when == ESTABLISHED and flags == 0
    assert since["unseen"] == (2 if hidden else 0)
    assert agent.status()["losses"]["state_cb"] == 0


def test_letting_go_leaves_the_others_at_work(shared_lab: Lab, agent: RunningAgent, theirs: Tally) -> None:
    agent.stop()
    shown = shared_lab.call(shared_lab.host, ["tc", "filter", "show", "dev", "to-remote", "ingress"]).stdout
    assert "counts" in shown
    assert "licet-" not in shown
    seen = theirs[0]
    assert shared_lab.load(shared_lab.remote, shared_lab.host.v6, PORT, connections=2)["errors"] == {}
    assert theirs[0] - seen >= 2 * 4
