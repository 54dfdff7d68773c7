"""Whoever makes very many uses, or events, takes nothing from what is told of others."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from agent import abi
from agent.kernel.pins import Pins
from tests.fixtures import cgroups
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, matching
from tests.fixtures.waiting import wait_for
from tests.kernel.tc_world import PacketClient, Segment, link_address

PORT, BUSY = 7411, 7412
ATTACKER, VICTIM = 3001, 3002
EACH_SUMMARY_S = 0.5
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7411, class: internal}]}
  busy: {product: free, ports: [{port: 7412, class: internal}]}
principals: {nobody: [{uid: 4999}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [nobody]}]}
  - {id: free, product: free, entitlements: [{id: use, classes: [internal], principals: [anyone]}]}
"""
SYN = 0x02
# one process, and a consumer of its own for each uid, or each cgroup
AS_USERS = """
import os, socket, sys
port, *uids = map(int, sys.argv[1:])
for uid in uids:
    os.seteuid(uid)
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", port))
    os.seteuid(0)
"""
IN_CGROUPS = """
import os, socket, sys
top, uid, first, last, port = sys.argv[1], *map(int, sys.argv[2:])
for number in range(first, last):
    folder = f"{top}/c{number}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/cgroup.procs", "w") as procs:
        procs.write("0")
    os.seteuid(uid)
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", port))
    os.seteuid(0)
"""


@pytest.fixture
def agent(lab: Lab) -> Iterator[RunningAgent]:
    lab.serve(lab.host, "127.0.0.1", PORT)
    lab.serve(lab.host, "127.0.0.1", BUSY)
    settings = {
        "intervals": {"summary": EACH_SUMMARY_S, "reconcile": 1},
        "events": {"flows": True},
        "scope": {"interfaces": ["*"]},
    }
    with lab.agent(POLICY, settings) as running:
        yield running


def as_users(lab: Lab, *uids: int, port: int = PORT) -> None:
    lab.call(lab.host, [sys.executable, "-c", AS_USERS, str(port), *map(str, uids)])


def in_cgroups(lab: Lab, uid: int, many: range) -> None:
    top = cgroups.directory(lab.cgroup("crowd"))
    argv = [sys.executable, "-c", IN_CGROUPS, str(top), *map(str, (uid, many.start, many.stop, PORT))]
    lab.call(lab.host, argv, timeout_s=120)


@contextmanager
def paused(agent: RunningAgent) -> Iterator[None]:
    """It reads nothing meanwhile, as where it gets no CPU."""
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(agent.pid, signal.SIGCONT)


def rows(agent: RunningAgent) -> list[tuple[abi.UseKey, abi.Use]]:
    with closing(Pins(agent.files.pins).open_map("uses")) as uses:
        return [
            (abi.UseKey.from_buffer_copy(key), abi.Use.from_buffer_copy(value)) for key, value in uses.items()
        ]


def violators(agent: RunningAgent) -> dict[int, dict[str, Any]]:
    """Events of first violations, by uid."""
    return {one["consumer"].get("uid", -1): one for one in matching(agent, {"type": "violation"})}


def flood(lab: Lab, many: int) -> None:
    """SYNs from elsewhere, each with a source of its own."""
    chosen = random.Random(5)
    with PacketClient(lab.remote, "eth0", link_address(lab.host, "to-remote")) as client:
        for number in range(many):
            port = 20_000 + number % 40_000
            client.send(Segment(somewhere(chosen), "10.77.2.1", port, PORT, number + 1, SYN))


def somewhere(chosen: random.Random) -> str:
    return f"{chosen.randint(11, 99)}.{chosen.randint(0, 255)}.{chosen.randint(0, 255)}.7"


def test_spoofed_sources_take_no_row_and_no_event_of_local_ones(lab: Lab, agent: RunningAgent) -> None:
    lab.serve(lab.host, "10.77.2.1", PORT)
    agent.wait_until_it_stands_by()
    agent.licet("mode", "enforce", "--yes")
    with paused(agent):
        flood(lab, 20_000)
        as_users(lab, *range(3100, 3200))
    wait_for(lambda: violators(agent).keys() >= set(range(3100, 3200)), "each user's is told", timeout_s=60)
    told = violators(agent)
    assert {told[uid]["consumer"]["identity"] for uid in range(3100, 3200)} == {"process"}
    found = connections(agent, "db")
    assert found == {("remote", "denied"): 20_000, ("loopback", "denied"): 100}
    kept = rows(agent)
    assert sum(use.attempts for key, use in kept if key.origin == 2) == 20_000
    assert len(kept) < 8_000
    assert {key.use_of for key, _ in kept} == set(abi.UseOf)
    assert agent.total("licet_events_lost_total", cause="uses_full") == 0


def test_a_user_of_many_cgroups_keeps_a_share_and_others_are_told(lab: Lab, agent: RunningAgent) -> None:
    in_cgroups(lab, ATTACKER, range(1_300))
    as_users(lab, VICTIM)
    victim = wait_for(lambda: violators(agent).get(VICTIM), "the victim's violation is told", timeout_s=60)
    assert victim["consumer"]["identity"] == "process"
    mine = [(key, use) for key, use in rows(agent) if key.uid == ATTACKER]
    fine = [key for key, _ in mine if key.use_of == abi.UseOf.ONE]
    # some more may come while user space counts anew
    assert abi.USES_OF_SHARE <= len(fine) < 1_300
    (many,) = (use for key, use in mine if key.use_of == abi.UseOf.MANY)
    assert many.attempts == 1_300 - len(fine)
    summary = wait_for(
        lambda: matching(agent, {"type": "summary", "consumer.identity": "user"}), "they are summed up"
    )
    assert summary[-1]["consumer"] == {"identity": "user", "uid": ATTACKER}
    assert connections(agent, "db") == {("loopback", "denied"): 1_301}


def test_flow_events_take_no_room_of_violations(lab: Lab, agent: RunningAgent) -> None:
    with paused(agent):
        lab.load(lab.host, "127.0.0.1", BUSY, connections=5_000, options=["--sources", "8"])
        as_users(lab, *range(3300, 3600))
        lab.load(lab.host, "127.0.0.1", BUSY, connections=5_000, options=["--sources", "8"])
    wait_for(lambda: violators(agent).keys() >= set(range(3300, 3600)), "each is told", timeout_s=60)
    assert agent.total("licet_events_lost_total", cause="ring_full") > 0  # flows', and counted
    assert connections(agent, "busy") == {("loopback", "allowed"): 10_000}


def test_a_first_violation_is_told_as_such_at_any_moment(lab: Lab) -> None:
    """The look for repeats meets rows whose events nobody has read yet."""
    lab.serve(lab.host, "127.0.0.1", PORT)
    with lab.agent(POLICY, {"intervals": {"summary": 0.01, "reconcile": 1}}) as agent:
        as_users(lab, *range(3700, 4300))
        wait_for(lambda: violators(agent).keys() >= set(range(3700, 4300)), "each is told", timeout_s=60)
        assert len(matching(agent, {"type": "violation"})) == 600
        assert matching(agent, {"type": "summary"}) == []
        assert all(one["consumer"]["exe"] for one in matching(agent, {"type": "violation"}))


def test_what_the_ring_lost_is_told_as_the_first_it_is(lab: Lab, agent: RunningAgent) -> None:
    with paused(agent):
        as_users(lab, *range(10_000, 14_000))  # more than the ring holds
    wait_for(lambda: len(violators(agent)) == 4_000, "each is told", timeout_s=90)
    assert agent.total("licet_events_lost_total", cause="ring_full") > 0
    late = [one for one in matching(agent, {"type": "violation"}) if "counts" in one]
    assert late
    assert all(one["counts"]["seconds"] >= 0 for one in late)


def test_many_ids_of_one_user_namespace_are_one_users(lab: Lab, agent: RunningAgent) -> None:
    """Whoever has subordinate ids may have 65,536 of them."""
    holder = lab.run(lab.host, ["unshare", "--user", "sleep", "600"], uid=ATTACKER)
    wait_for(lambda: _mapped(holder), "its ids are mapped")
    script = AS_USERS.replace("os.seteuid(uid)", "os.seteuid(uid % 65536)")
    inside = ["nsenter", "--user", f"--target={holder.pid}", "--setuid=0", sys.executable, "-c", script]
    for start in range(1, 1_500, 500):
        lab.call(lab.host, [*inside, str(PORT), *map(str, range(start, start + 500))])
    as_users(lab, VICTIM)
    wait_for(lambda: violators(agent).get(VICTIM), "the victim's violation is told", timeout_s=60)
    many = [use for key, use in rows(agent) if key.use_of == abi.UseOf.MANY and key.uid == ATTACKER]
    fine = [key for key, _ in rows(agent) if key.use_of == abi.UseOf.ONE]
    assert len(fine) < 1_500
    assert sum(use.attempts for use in many) == 1_501 - len(fine)


def _mapped(holder: subprocess.Popen[str]) -> bool:
    try:
        for kind in ("uid", "gid"):
            with open(f"/proc/{holder.pid}/{kind}_map", "w") as ids:
                ids.write("0 700000 65536")
    except OSError:  # its namespace is not there yet
        return False
    return True
