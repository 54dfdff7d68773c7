"""From one version to the next while it enforces under traffic: no gap, and everything is counted on."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.daemon.reporting.coverage import CHANGED_ON_ITS_WAY, LISTENS_UNBIDDEN
from agent.kernel.attach.gates import LISTENER, REWRITTEN
from agent.kernel.loading.gates import CALLED_BY
from agent.kernel.pins import Pins
from tests.fixtures import processes, versions
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, lost, matching, told
from tests.fixtures.versions import COMMIT_0_1_0, Version
from tests.fixtures.waiting import SLOWER, wait_for

LICENSED, UNLICENSED = 1001, 1002
PORT, SIDE = 7331, 7332
RATE = max(20, int(1000 / SLOWER**2))
"""A second, of each of four kinds."""
STARTED_WITHIN_S = 180
"""An upgrade compiles everything before it changes anything, and traffic runs meanwhile."""
POLICY = f"""\
version: 1
services:
  db: {{product: acme, ports: [{{port: {PORT - 800}-{PORT}, class: internal}}]}}
  side: {{product: acme, ports: [{{port: {SIDE}, class: internal}}]}}
principals:
  licensed: [{{uid: {LICENSED}}}, {{cidr: 10.77.2.0/24}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""
LACKING = {REWRITTEN: CHANGED_ON_ITS_WAY, LISTENER: LISTENS_UNBIDDEN}
STEPS = (
    *("staged", "copied", "policy", "switching", "tracker", "flows", "filters", "observers"),
    *("drain", "take", "counts", "finishing", "renamed", "finished"),
)
"""Where an upgrade is killed: two in the middle of rows, and what upgrade() tells."""
KILLED_AT = """\
import os, signal, sys
from pathlib import Path
from agent.config import load_settings
from agent.daemon.startup import process, upgrade
from agent.kernel.upgrade import migration
from agent.observe.cgroup import find_mount

def kill_at(step, *_):
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

def in_the_middle(step, of, name):
    work, calls = getattr(of, name), []
    def instead(*arguments):
        done = work(*arguments)
        calls.append(None)
        len(calls) == 2 and kill_at(step)
        return done
    setattr(of, name, instead)

in_the_middle("drain", migration.Drain, "take")
remove = migration.Map.remove
migration.Map.remove = lambda self, key: (self.name == "flows" and kill_at("take"), remove(self, key))[1]
settings, mount = load_settings(Path(sys.argv[1])), find_mount()
upgrade.upgrade(settings, process.scope_cgroup(settings, mount), mount, kill_at)
"""


@pytest.fixture
def agent(lab: Lab) -> Iterator[RunningAgent]:
    servers = [lab.serve(lab.host, "::", port, workers=2) for port in (PORT, SIDE)]
    settings = {
        "scope": {"interfaces": ["*"]},
        "paths": {"licenses": None, "keys": None},  # 0.1.0 does not know them
        "acceptor": "always",
        "intervals": {"summary": 1, "reconcile": 1},
    }
    with lab.agent(POLICY, settings, start=False) as running:
        yield running
    for server in servers:
        processes.end(server)


def start(agent: RunningAgent, version: Version | None = None) -> None:
    if version is None:
        agent.start(timeout_s=STARTED_WITHIN_S)
        return
    command = version.command("run", "--config", agent.files.config)
    agent.start(command=command, env=version.env, timeout_s=STARTED_WITHIN_S)


class Traffic:
    """Local and remote, licensed and not; a second at a time while `going` is there."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._going = lab.directory / "going"
        self._going.touch()
        host, remote = lab.host, lab.remote
        self._loads = [
            self._start(host, LICENSED, "127.0.0.1"),
            self._start(remote, LICENSED, host.v4),
            self._start(host, UNLICENSED, host.v4),
            self._start(remote, UNLICENSED, host.v6),
        ]

    def _start(self, place: Namespace, uid: int, address: str) -> subprocess.Popen[str]:
        argv = [self._lab.executable("load"), address, str(PORT), "--connections", str(RATE)]
        loop = 'flag=$1; shift; while [ -e "$flag" ]; do "$@"; done'
        options = ["--rate", str(RATE), "--clients", "4", "--hold", "20"]
        return self._lab.run(place, ["sh", "-c", loop, "sh", self._going, *argv, *options], uid=uid)

    def end(self) -> list[Counter[str]]:
        """How often which error came, and "ok", of each kind."""
        self._going.unlink()
        with ThreadPoolExecutor(len(self._loads)) as pool:
            outputs = list(pool.map(lambda one: one.communicate(timeout=90 * SLOWER)[0], self._loads))
        found = []
        for output in outputs:
            of: Counter[str] = Counter()
            for line in output.splitlines():
                second = json.loads(line)
                of.update(second["errors"] | {"ok": second["ok"]})
            found.append(+of)
        return found


@contextmanager
def exactly(lab: Lab, agent: RunningAgent) -> Iterator[None]:
    """Nothing that was attempted meanwhile is let through, refused, lost or counted twice by mistake."""
    traffic = Traffic(lab)
    yield
    local, remote, denied, reset = traffic.end()
    assert [set(each) for each in (local, remote, denied, reset)] == [
        {"ok"},
        {"ok"},
        {"EPERM"},
        {"ECONNREFUSED"},
    ]
    assert connections(agent, "db") == {
        ("loopback", "allowed"): local.total(),
        ("remote", "allowed"): remote.total(),
        ("loopback", "denied"): denied.total(),
        ("remote", "denied"): reset.total(),
    }
    assert all_closed(agent, "db") == local.total() + remote.total()
    assert lost(agent) == {}
    assert agent.status()["flows"]["closed_by_reconciliation"] == 0
    assert agent.total("licet_refused_total", service="db", gate="connect") == denied.total()
    assert agent.total("licet_refused_total", service="db") == denied.total() + reset.total()


def upgrade_killed_at(lab: Lab, agent: RunningAgent, version: Version, step: str) -> int:
    """Its exit status."""
    argv = [*version.python(KILLED_AT), agent.files.config, step]
    killed = lab.call(lab.host, argv, cgroup=None, env=version.env, check=False, timeout_s=60)
    return killed.returncode


def kernel_takes(agent: RunningAgent, program: str) -> bool:
    """False if this kernel refused it. Status then says what is not covered."""
    refused = json.loads((agent.files.control.parent / "gates.json").read_text())["refused"]
    lacking, _ = LACKING[program]
    said = [one["what"] for one in agent.status()["not_covered"]]
    assert (lacking in said) == (program in refused)
    return program not in refused


@pytest.mark.parametrize("to", ["this-version", "all-shapes-changed"])
def test_from_0_1_0_nothing_gets_through_is_lost_or_counts_twice(
    lab: Lab, agent: RunningAgent, to: str
) -> None:
    following = None
    if to == "all-shapes-changed":
        following = versions.changed(lab.directory, "next", versions.every_shape)
    before_it = versions.version_0_1_0(lab.directory)
    start(agent, before_it)
    assert command(lab, agent, before_it, "mode", "observe", "--target", "side")[0] == 0
    with exactly(lab, agent):
        held = hold(lab, agent, 5)
        before = {flow["cookie"]: flow for flow in held_flows(agent)}
        agent.terminate()
        # whoever comes while no daemon runs
        assert lab.load(lab.host, "127.0.0.1", SIDE, uid=UNLICENSED + 1)["ok"] == 1
        start(agent, following)
        event = told(agent, {"type": "violation", "service": "side", "reason": "unlicensed_principal"})
        assert (event["consumer"]["uid"], event["consumer"]["args"][1]) == (UNLICENSED + 1, "127.0.0.1")
        for program in (REWRITTEN, LISTENER):
            table, _ = CALLED_BY[program]
            called = Pins(agent.files.pins).open_map(table).get(bytes(4))
            assert any(called or b"") == kernel_takes(agent, program), f"{table}: calls {program}"
        # flows go on, with who they are
        after = {flow["cookie"]: flow for flow in held_flows(agent)}
        assert {one["consumer"]["pid"] for one in after.values()} == {held.pid}
        for cookie, flow in before.items():
            for name in ("opened_boot_ns", "consumer", "service", "decision", "reason"):
                assert after[cookie].get(name) == flow.get(name), name
        assert after.keys() == before.keys()
        # so do overrides
        modes = agent.control("GET", "/v1/mode")
        assert [one["scope"] for one in modes["overrides"]] == ["side/internal"]
        # and uses: what was told is not told again
        assert connections(agent, "side") == {("loopback", "allowed"): 5, ("loopback", "denied"): 1}
    processes.end(held)
    assert all_closed(agent, "side") == 6
    denied = matching(agent, {"type": "violation", "service": "db", "reason": "unlicensed_principal"})
    assert len(denied) == 2, "each consumer is told once"


def hold(lab: Lab, agent: RunningAgent, count: int) -> subprocess.Popen[str]:
    argv = [lab.executable("load"), "127.0.0.1", str(SIDE), "--connections", str(count)]
    held = lab.run(lab.host, [*argv, "--clients", str(count), "--hold", "600000"], uid=LICENSED)
    wait_for(lambda: len(held_flows(agent)) == count, "all are connected")
    return held


def held_flows(agent: RunningAgent) -> list[dict[str, object]]:
    return [flow for flow in agent.flows() if flow["service"] == "side"]


def test_killed_at_any_step_it_goes_on_with_nothing_lost_and_nothing_twice(
    lab: Lab, agent: RunningAgent
) -> None:
    following = versions.changed(lab.directory, "next", versions.every_shape)
    start(agent)
    with exactly(lab, agent):
        hold(lab, agent, 5)
        agent.kill9()
        for step in STEPS:
            assert upgrade_killed_at(lab, agent, following, step) == -9, step
        start(agent, following)
        assert len(held_flows(agent)) == 5


def test_another_version_goes_on_where_an_upgrade_was_killed(lab: Lab, agent: RunningAgent) -> None:
    def once_more(tree: Path) -> None:
        versions.every_shape(tree)
        versions.add_field(tree, "flow", "of_the_one_after")

    following = versions.changed(lab.directory, "next", versions.every_shape)
    later = versions.changed(lab.directory, "later", once_more)
    start(agent, versions.version_0_1_0(lab.directory))
    with exactly(lab, agent):
        agent.kill9()
        assert upgrade_killed_at(lab, agent, following, "flows") == -9
        start(agent, later)


def refuses_still(lab: Lab) -> bool:
    unlicensed = lab.load(lab.host, "127.0.0.1", PORT, connections=5, uid=UNLICENSED)
    licensed = lab.load(lab.host, "127.0.0.1", PORT, connections=5, uid=LICENSED)
    return (unlicensed["errors"], licensed["errors"]) == ({"EPERM": 5}, {})


def command(lab: Lab, agent: RunningAgent, version: Version, *arguments: str) -> tuple[int, str]:
    """Exit status and what was said of a command of another version."""
    argv = version.command(*arguments, "--config", agent.files.config)
    done = lab.call(lab.host, argv, cgroup=None, env=version.env, check=False, timeout_s=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("older", ["0.1.0", "with smaller rows"])
def test_an_earlier_version_changes_nothing_and_says_what_to_do(
    lab: Lab, agent: RunningAgent, older: str
) -> None:
    if older == "0.1.0":
        start(agent)
        version = versions.version_0_1_0(lab.directory)
    else:
        start(agent, versions.changed(lab.directory, "next", versions.every_shape))
        version = versions.changed(lab.directory, "now", lambda tree: None)
    agent.kill9()
    for arguments in (("load",), ("run",)):
        status, said = command(lab, agent, version, *arguments)
        assert status == 1
        assert "licet unload --all" in said
        assert "Traceback" not in said
    assert refuses_still(lab)
    assert not (agent.files.pins / "next").exists()


def test_by_a_policy_that_is_refused_the_version_before_goes_on(lab: Lab, agent: RunningAgent) -> None:
    start(agent, versions.version_0_1_0(lab.directory))
    agent.kill9()
    good = agent.files.policy.read_text()
    agent.files.write_policy(good.replace("principals: [licensed]", "principals: [nobody]"))
    done = agent.licet("run", check=False)
    assert done.returncode == 1
    assert "the version before stays in force, because this version refuses the policy" in done.stderr
    assert refuses_still(lab)
    agent.files.write_policy(good)
    start(agent)
    assert refuses_still(lab)


def test_under_a_daemon_of_the_version_before_only_a_restart_upgrades(lab: Lab, agent: RunningAgent) -> None:
    start(agent, versions.version_0_1_0(lab.directory))
    done = agent.licet("load", check=False)
    assert done.returncode == 1
    assert f"the daemon that runs (pid {agent.pid}); restart it" in " ".join(done.stderr.split())
    agent.kill9()
    agent.licet("load")
    assert refuses_still(lab)
    assert not (agent.files.pins / "1").exists()
    start(agent)
    assert connections(agent, "db") == {("loopback", "allowed"): 5, ("loopback", "denied"): 5}


def test_a_daemon_whose_files_were_replaced_still_enforces(lab: Lab, agent: RunningAgent) -> None:
    version = versions.version_0_1_0(lab.directory / "replaced")
    agent.files.write_policy(POLICY.replace("default: enforce", "default: observe"))
    start(agent, version)
    gate = agent.files.pins / "1/programs/refuse_connect4"
    wait_for(gate.exists, "the gates are loaded", timeout_s=STARTED_WITHIN_S)
    assert not refuses_still(lab)
    versions.replace_files(version)
    agent.set_policy(POLICY)
    wait_for(lambda: refuses_still(lab), "what is enforced is refused")


def test_unload_lets_go_of_an_upgrade_that_is_half_done(lab: Lab, agent: RunningAgent) -> None:
    following = versions.changed(lab.directory, "next", versions.every_shape)
    start(agent, versions.version_0_1_0(lab.directory))
    agent.kill9()
    assert upgrade_killed_at(lab, agent, following, "filters") == -9
    agent.licet("unload")
    assert not agent.files.pins.exists()
    for place in (lab.host, lab.remote):
        assert lab.load(place, lab.host.v4, PORT, connections=5, uid=UNLICENSED)["errors"] == {}


def test_the_archive_of_0_1_0_is_what_its_commit_holds() -> None:
    if not versions.history_has(COMMIT_0_1_0):
        pytest.skip(f"commit {COMMIT_0_1_0} is not in this clone's history")
    assert versions.archived_0_1_0() == versions.committed_0_1_0()
