"""What an operator is told where no daemon answers: what the kernel does by itself, and what to do."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET, RunningAgent
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7421, class: internal}]}
  web: {product: acme, ports: [{port: 7422, class: admin}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [anyone]}]}
"""
FAILED = 1


@pytest.fixture
def agent(lab: Lab) -> Iterator[RunningAgent]:
    with lab.agent(POLICY) as running:
        running.wait_until_it_stands_by()
        yield running


def told(agent: RunningAgent, *command: str) -> str:
    done = agent.licet(*command, check=False)
    assert done.returncode == FAILED
    assert done.stdout == ""
    return done.stderr


def local(seconds: float) -> str:
    """The clock then."""
    return time.strftime("%H:%M", time.localtime(time.time() + seconds))


def test_dead_and_observing(agent: RunningAgent) -> None:
    agent.kill9()
    said = told(agent, "status")
    assert "no daemon answers" in said
    assert "its programs are in the kernel: they count attempts and refuse nothing" in said
    assert "systemctl start licet" in said
    assert "licet unload" in said


def test_dead_and_enforcing(agent: RunningAgent) -> None:
    agent.licet("mode", "enforce", "--target", "web", "--for", "2h", "--yes")
    agent.licet("mode", "enforce", "--target", "db/internal", "--yes")
    agent.kill9()
    for command in (["status"], ["mode"], ["mode", "observe"], ["mode", "enforce", "--yes"]):
        said = told(agent, *command)
        found = re.search(r"refuse on db/internal, web/admin until ([-0-9 ]*)(\d\d:\d\d) ", said)
        assert found is not None, (command, said)
        assert found[2] in {local(7200 + seconds) for seconds in (-120, -60, 0)}
        assert "connect" in said


def test_the_overrides_of_the_host_and_of_a_target_are_as_the_kernel_takes_them(agent: RunningAgent) -> None:
    agent.licet("mode", "enforce", "--yes")
    agent.licet("mode", "observe", "--target", "db")
    agent.kill9()
    found = json.loads(agent.licet("status", "--json", check=False).stdout)
    assert found["daemon"]["answers"] is False
    assert found["daemon"]["pid"] is None
    assert found["kernel"]["refuses_on"] == [{"service": "web", "class": "admin", "until": None}]
    assert found["kernel"]["gates"]


def test_an_override_that_has_ended_refuses_no_more(agent: RunningAgent) -> None:
    agent.licet("mode", "enforce", "--for", "1s", "--yes")
    agent.kill9()
    wait_for(lambda: "they count attempts and refuse nothing" in told(agent, "status"), "it has ended")


def test_hung(agent: RunningAgent) -> None:
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        for command in (["status"], ["mode", "observe"], ["mode", "--reset"]):
            said = told(agent, *command)
            assert "did not answer within 10 s" in said
            assert f"the daemon (pid {agent.pid}) runs but does not answer: restart it" in said
            assert f"kill -9 {agent.pid}" in said
            assert f"`kill -CONT {agent.pid}` resumes it" in said
            assert "refuse nothing" in said
        said = told(agent, "unload")
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    assert f"the daemon (pid {agent.pid}) has not ended within 15 s, and nothing was unloaded" in said
    assert f"kill -9 {agent.pid}" in said


def test_one_that_starts_is_not_to_be_restarted(agent: RunningAgent) -> None:
    agent.files.control.unlink()
    said = told(agent, "status")
    assert f"the daemon (pid {agent.pid}) has not opened its socket yet: it is starting" in said
    assert "restart it" not in said


def test_what_is_said_of_the_kernel_does_not_point_to_itself(agent: RunningAgent) -> None:
    agent.kill9()
    said = told(agent, "status")
    assert "`licet status`" not in said
    assert "start it (`systemctl start licet`" in said


def test_who_is_not_root_is_told_what_needs_root(lab: Lab, agent: RunningAgent) -> None:
    agent.terminate()
    argv = [LICET, "status", "--config", agent.files.config]
    done = lab.call(lab.host, argv, cgroup=None, check=False, uid=1499)
    assert done.returncode == FAILED
    assert "no daemon answers" in done.stderr
    assert "only root can read" in done.stderr


def test_nothing_loaded(agent: RunningAgent) -> None:
    agent.terminate()
    first = agent.licet("unload").stdout
    assert "links" in first
    assert "nothing is counted or refused any more" in first
    assert "ended the daemon" not in first
    assert agent.licet("unload").stdout == f"nothing was loaded below {agent.files.pins}\n"
    assert "none of its programs is in the kernel" in told(agent, "status")


def test_unload_says_whom_it_ended(agent: RunningAgent) -> None:
    pid = agent.pid
    assert f"ended the daemon (pid {pid})" in agent.licet("unload").stdout
    agent._running().wait(10)


def test_what_needs_a_daemon_says_what_the_kernel_does(agent: RunningAgent) -> None:
    agent.terminate()
    meanwhile = told(agent, "status")
    assert "its programs are in the kernel" in meanwhile
    for command in ("flows", "listeners", "events"):
        assert told(agent, command) == meanwhile
