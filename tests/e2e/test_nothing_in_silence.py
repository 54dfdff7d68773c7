"""What an agent reads and writes goes wrong around it: it goes on protecting, and says what it cannot do."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.processes import PYTHON
from tests.fixtures.running_agent import LICET, RunningAgent
from tests.fixtures.waiting import wait_for

LICENSED, STRANGER = 1001, 1002
PORT, OTHER_PORT = 7310, 7311
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7310, class: internal}]}
principals:
  licensed: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce}
"""
LICENSE_FOR_A_STRANGER = """\
version: 1
principals: {me: [{uid: 1002}]}
licenses: [{id: mine, product: acme, entitlements: [{id: use, classes: [internal], principals: [me]}]}]
"""
BAD = POLICY.replace("principals: [licensed]", "principals: [licenced]")
FIXTURES = Path(__file__).parents[1] / "fixtures"
NO_INOTIFY, SILENT_FILES = FIXTURES / "no_inotify.py", FIXTURES / "silent_files.py"


@pytest.fixture
def world(lab: Lab) -> Lab:
    lab.serve(lab.host, "0.0.0.0", PORT)
    return lab


@contextmanager
def tmpfs(path: Path, *options: str) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(["mode=755", *options]), "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def errors(lab: Lab, uid: int, address: str = "127.0.0.1") -> dict[str, int]:
    return lab.load(lab.host, address, PORT, uid=uid)["errors"]


def assert_it_protects(lab: Lab) -> None:
    assert errors(lab, LICENSED) == {}
    assert errors(lab, STRANGER) == {"EPERM": 1}


def run_to_its_end(lab: Lab, agent: RunningAgent) -> subprocess.CompletedProcess[str]:
    argv = [LICET, "run", "--config", agent.files.config]
    return lab.call(lab.host, argv, cgroup=None, check=False)


def trouble(agent: RunningAgent, cause: str) -> float:
    return agent.total("licet_trouble", cause=cause)


def error_told(agent: RunningAgent, what: str) -> str:
    """The last reload's, once it speaks of this."""
    return wait_for(lambda: error if what in (error := _last_error(agent)) else "", what)


def _last_error(agent: RunningAgent) -> str:
    error: str = agent.status()["policy"]["last_error"]
    return error


def readyz(agent: RunningAgent) -> tuple[int, Any]:
    status, body = agent.get("/readyz")
    return status, json.loads(body)


# The policy's files


def test_a_policy_on_a_mount_that_goes_away_stays_in_force(world: Lab) -> None:
    mount = world.directory / "mount"
    with world.agent("version: 1\n") as agent:
        with tmpfs(mount):
            (mount / "policy.yaml").write_text(POLICY)
            agent.files.policy.unlink()
            agent.files.policy.symlink_to(mount / "policy.yaml")
            wait_for(lambda: agent.status()["mode"] == "enforce", "the policy is in force", timeout_s=30)
        os.kill(agent.pid, 1)  # nobody is told of a mount that goes
        error_told(agent, "cannot be read")
        assert_it_protects(world)
        agent.restart()
        status = agent.status()
        assert status["policy"]["is_last_good"] is True
        assert "cannot be read" in status["troubles"]["policy"]
        assert trouble(agent, "policy") == 1
        assert "the last good policy is in force" in agent.log()
        assert "TROUBLE" in agent.licet("status").stdout
        assert_it_protects(world)
        agent.files.policy.unlink()
        agent.set_policy(POLICY)
        assert (trouble(agent, "policy"), agent.status()["troubles"]) == (0, {})


def test_a_policy_d_that_is_unmounted_leaves_its_part_in_force(world: Lab) -> None:
    with world.agent("version: 1\n", start=False) as agent:
        folder = agent.files.directory / "policy.d"
        with tmpfs(folder):
            (folder / "all.yml").write_text(POLICY)
            agent.start()
            assert_it_protects(world)
        os.kill(agent.pid, 1)
        error_told(agent, "the folder is another one or gone")
        assert_it_protects(world)


def test_a_main_file_that_vanishes_beside_policy_d_stays_in_force(world: Lab) -> None:
    with world.agent(POLICY) as agent:
        (agent.files.directory / "policy.d" / "more.yml").write_text(
            "version: 1\nprincipals: {x: [{uid: 7}]}\n"
        )
        wait_for(lambda: len(agent.status()["policy"]["files"]) == 2, "a .yml is taken")
        agent.files.policy.unlink()
        error_told(agent, "the main file of the policy is gone")
        assert_it_protects(world)


def test_a_broken_policy_at_start_with_nothing_in_the_kernel_is_the_last_good_one(world: Lab) -> None:
    with world.agent(POLICY) as agent:
        agent.terminate()
        agent.licet("unload")
        agent.files.write_policy(BAD)
        agent.start()
        assert_it_protects(world)
        assert "licenced" in agent.status()["troubles"]["policy"]
        assert agent.total("licet_policy_last_reload_successful") == 0
        assert any("licenced" in event["message"] for event in agent.events("policy_error"))
        assert readyz(agent)[0] == 200


def test_a_stranger_does_not_license_himself_through_a_folder_that_everybody_can_write(world: Lab) -> None:
    with world.agent(POLICY) as agent:
        folder = agent.files.directory / "policy.d"
        folder.chmod(0o777)
        write = ["sh", "-c", f"printf %s '{LICENSE_FOR_A_STRANGER}' >{folder}/mine.yaml"]
        world.call(world.host, write, cgroup=None, uid=STRANGER)
        error_told(agent, "everybody may write to it")
        folder.chmod(0o755)
        error_told(agent, f"belongs to uid {STRANGER}")
        assert_it_protects(world)
        warned = agent.licet("policy", "check")
        assert f"warning: {folder}/mine.yaml: belongs to uid {STRANGER}" in warned.stdout
        agent.restart()
        assert_it_protects(world)
        assert f"belongs to uid {STRANGER}" in agent.status()["troubles"]["policy"]


@pytest.mark.parametrize("place", ["config", "state", "run", "programs"])
def test_places_that_a_stranger_owns_are_refused_at_start(world: Lab, place: str) -> None:
    with world.agent(POLICY, start=False) as agent:
        paths = {name: agent.files.directory / name for name in ("state", "run", "programs")}
        paths["config"] = agent.files.config
        if place != "config":
            paths[place].mkdir()
        if place == "programs":
            text = agent.files.config.read_text().replace(_programs(agent), str(paths[place]))
            agent.files.config.write_text(text)
        os.chown(paths[place], STRANGER, STRANGER)
        done = run_to_its_end(world, agent)
        assert done.returncode == 1, done.stderr
        assert f"licet: {paths[place]}: belongs to uid {STRANGER}" in done.stderr
        os.chown(paths[place], 0, 0)
        agent.start(timeout_s=60)  # where no program is kept, all are compiled


def _programs(agent: RunningAgent) -> str:
    (line,) = [line for line in agent.files.config.read_text().splitlines() if "programs:" in line]
    return line.partition(": ")[2]


# Pins


def test_pins_that_a_stranger_made_beforehand_are_refused(world: Lab) -> None:
    with world.agent(POLICY, start=False) as agent:
        world.call(world.host, ["mkdir", agent.files.pins], cgroup=None, uid=STRANGER)
        done = run_to_its_end(world, agent)
        assert done.returncode == 1, done.stderr
        assert f"{agent.files.pins}: belongs to uid {STRANGER}" in done.stderr
        agent.files.pins.rmdir()
        agent.start()


def test_a_daemon_with_another_run_directory_is_kept_from_the_pins(world: Lab) -> None:
    with world.agent(POLICY) as first:
        pins = {"paths": {"pins": str(first.files.pins)}}
        with world.agent("version: 1\n", pins, start=False) as second:
            done = run_to_its_end(world, second)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
            assert f"pid {first.pid}" in done.stderr
            for command in ("load", "unload"):
                ended = second.licet(command, check=False)
                assert ended.returncode == 1
                assert f"pid {first.pid}" in ended.stderr
            assert readyz(first)[0] == 200
            assert_it_protects(world)
            first.kill9()
            second.start()


def test_a_daemon_whose_programs_were_replaced_is_not_ready(world: Lab) -> None:
    """By one that took no lock, or another one: the directory that was locked is gone."""
    with world.agent(POLICY) as first:
        shutil.rmtree(first.files.pins)
        wait_for(lambda: readyz(first)[0] == 503, "the first says that its programs are gone")
        assert "is gone: this daemon sees nothing" in readyz(first)[1]["reason"]
        pins = {"paths": {"pins": str(first.files.pins)}}
        with world.agent("version: 1\n", pins) as second:
            wait_for(lambda: "another daemon's" in readyz(first)[1]["reason"], "the first says so")
            assert trouble(first, "pins") == 1
            assert first.total("licet_enforcing", service="db") == 0
            assert first.status()["ready"] is False
            assert "another daemon's" in first.log()
            assert readyz(second)[0] == 200
            second.terminate()
        first.restart()
        assert readyz(first)[0] == 200
        assert_it_protects(world)


# The state directory


@contextmanager
def full(agent: RunningAgent) -> Iterator[None]:
    """Not a byte is left in the state directory."""
    filler = agent.files.directory / "state" / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(agent: RunningAgent) -> Iterator[None]:
    state = agent.files.directory / "state"
    subprocess.run(["mount", "-o", "remount,ro", state], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", state], check=True)


@pytest.mark.parametrize("spoilt", [full, read_only])
def test_a_state_directory_that_takes_nothing_stops_nothing(world: Lab, spoilt: Any) -> None:
    with world.agent(POLICY, start=False) as agent, tmpfs(agent.files.directory / "state", "size=64k"):
        agent.start()
        assert readyz(agent)[0] == 200
        with spoilt(agent):
            subprocess.run(
                ["ip", "-n", world.host.name, "address", "add", "10.77.9.9/32", "dev", "lo"], check=True
            )
            wait_for(lambda: errors(world, STRANGER, "10.77.9.9") == {"EPERM": 1}, "the host is followed")
            agent.set_policy(
                POLICY.replace(
                    "services:\n", "services:\n  web: {product: w, ports: [{port: 81, class: public}]}\n"
                )
            )
            taken_back = agent.licet("mode", "observe", "--target", "db")
            assert "a restart may lose the last change" in taken_back.stderr
            assert errors(world, STRANGER) == {}
            refused = agent.licet("mode", "enforce", "--yes", check=False)
            assert "modes.json: cannot be written" in refused.stderr
            wait_for(lambda: readyz(agent)[0] == 503, "it is not ready")
            assert "cannot be written" in readyz(agent)[1]["reason"]
            assert trouble(agent, "state") == 1
            numbers = dict(agent.status()["policy"])["targets"]
            agent.kill9()
            _start_unready(world, agent)
            assert_it_protects_again = errors(world, LICENSED)
            assert assert_it_protects_again == {}
            assert agent.status()["policy"]["targets"] == numbers == 2
            assert trouble(agent, "state") == 1
        wait_for(lambda: readyz(agent)[0] == 200, "what is missing has been written", timeout_s=30)
        assert trouble(agent, "state") == 0
        ids = json.loads((agent.files.directory / "state" / "ids.json").read_text())
        assert set(ids["targets"]) == {"db/internal", "web/public"}


def _start_unready(lab: Lab, agent: RunningAgent) -> None:
    """`start` waits until it is ready, which it is not."""
    with agent.files.log.open("a") as log:
        agent._process = lab.run(
            lab.host,
            [LICET, "run", "--config", agent.files.config],
            cgroup=None,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    wait_for(lambda: _answers(agent), "it answers", timeout_s=60)


def _answers(agent: RunningAgent) -> bool:
    return agent.licet("status", "--json", check=False).returncode == 0


def test_a_first_start_with_a_read_only_state_directory(world: Lab) -> None:
    with world.agent(POLICY, start=False) as agent, tmpfs(agent.files.directory / "state"):
        with read_only(agent):
            _start_unready(world, agent)
            wait_for(lambda: readyz(agent)[0] == 503 and trouble(agent, "state") == 1, "it says so")
            assert_it_protects(world)
        wait_for(lambda: readyz(agent)[0] == 200, "it is written now", timeout_s=30)


# inotify


@pytest.mark.parametrize("call", ["inotify_init1", "inotify_add_watch"])
def test_without_inotify_changed_files_are_found_by_looking(world: Lab, call: str) -> None:
    command = [PYTHON, NO_INOTIFY, call, LICET, "run", "--config"]
    with world.agent("version: 1\n", start=False) as agent:
        agent.start(command=[*command, agent.files.config])
        assert "sysctl" in agent.status()["troubles"]["policy_watch"]
        assert trouble(agent, "policy_watch") == 1
        assert readyz(agent)[0] == 200
        agent.set_policy(POLICY)
        assert_it_protects(world)
        assert "Traceback" not in agent.log()


# The host


@contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """As many as it has, and no more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_reload_that_the_host_kept_from_succeeding_is_tried_again_by_itself(world: Lab) -> None:
    with world.agent("version: 1\n") as agent:
        with without_descriptors(agent.pid):
            agent.files.write_policy(POLICY)
            wait_for(lambda: "tries again on its own" in agent.log(), "it is told")
        wait_for(lambda: agent.status()["mode"] == "enforce", "it is in force", timeout_s=30)
        assert_it_protects(world)
        assert agent.total("licet_policy_reload_failures_total") >= 1
        assert agent.events("policy_error")
        wait_for(lambda: trouble(agent, "policy") == 0 and readyz(agent)[0] == 200, "it is over")


def test_files_that_do_not_answer_are_told_and_hold_up_nothing(world: Lab) -> None:
    """A user serves them, and has a process of his listen that keeps the lock of its memory by them."""
    home = world.directory / "home"
    home.mkdir()
    with world.agent(POLICY, {"intervals": {"reconcile": 1}}) as agent:
        argv = [PYTHON, SILENT_FILES, home, "memory", str(OTHER_PORT)]
        server = world.run(world.host, argv)
        try:
            assert server.stdout is not None
            pid = int(server.stdout.readline())
            said = wait_for(lambda: agent.status()["troubles"].get("unanswered"), "it is told", timeout_s=30)
            assert "arguments of uid" in said
            listed = wait_for(
                lambda: [one for one in agent.listeners() if one["port"] == OTHER_PORT], "it is listed"
            )
            assert [owner["pid"] for owner in listed[0]["owners"]] == [pid]
            agent.set_policy(f"{POLICY}# another\n")
            assert readyz(agent)[0] == 200
            assert_it_protects(world)
        finally:
            server.kill()
        wait_for(lambda: not agent.status()["troubles"], "it is over", timeout_s=30)
