"""What can be wrong around the agent: one clear line, the documented exit code, nothing half-applied."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from agent.kernel.pins import ABI_VERSION
from agent.system import bpf_map, libbpf
from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import pins_in
from tests.fixtures.running_agent import LICET, RunningAgent

FAILED, USAGE, NO = 1, 2, 3
BPF_MAP_TYPE_HASH = 1  # linux/bpf.h


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    with shared_lab.agent("version: 1\n") as running:
        yield running


@pytest.fixture
def idle(shared_lab: Lab) -> Iterator[RunningAgent]:
    """An agent that is configured and has not been started; nothing of it may stay behind."""
    with shared_lab.agent("version: 1\n", start=False) as configured:
        yield configured
        assert pins_in(configured.files.pins) == []


def run(
    lab: Lab, agent: RunningAgent, *before: str, uid: int | None = None
) -> subprocess.CompletedProcess[str]:
    """`licet run` to its end, after the words in `before`."""
    argv = [*before, LICET, "run", "--config", agent.files.config]
    return lab.call(lab.host, argv, cgroup=None, check=False, uid=uid)


def in_own_mounts(script: str) -> Sequence[str]:
    """Words that run what follows after `script`, in a mount namespace nobody else sees."""
    return ["unshare", "--mount", "--propagation", "private", "bash", "-ec", f'{script}; exec "$@"', "bash"]


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *says: str, lines: int = 1) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()
    assert len(said) == lines, done.stderr
    for line in said:
        assert line.startswith("licet: ")
    for part in says:
        assert part in done.stderr


def test_a_second_daemon_names_the_first_and_leaves_it_alone(shared_lab: Lab, agent: RunningAgent) -> None:
    assert_refused(run(shared_lab, agent), FAILED, str(agent.files.control.parent), f"pid {agent.pid}")
    assert agent.status()["ready"] is True
    third = run(shared_lab, agent)
    assert_refused(third, FAILED, f"pid {agent.pid}")


def test_load_beside_a_running_daemon_changes_nothing(shared_lab: Lab, agent: RunningAgent) -> None:
    agent.wait_until_it_stands_by()
    before = set(pins_in(agent.files.pins))
    agent.licet("load")
    assert set(pins_in(agent.files.pins)) == before
    assert agent.status()["ready"] is True


def test_garbage_on_the_control_socket_harms_nobody(agent: RunningAgent) -> None:
    for garbage in (
        b"\x00\xff\xfe" * 1000,
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"",
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(str(agent.files.control))
            try:
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                continue  # cut off: an answer as good as 400
    assert agent.status()["ready"] is True
    assert "Traceback" not in agent.log()


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1/events?limit=many", "/v1/edges?limit=-1", "/../../etc/passwd"]
)
def test_a_wrong_question_is_answered_with_an_error(agent: RunningAgent, path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(str(agent.files.control))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: licet\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.split()[1] in (b"400", b"404")
    assert b'{"error":' in answer


def test_only_root_and_its_group_reach_the_control_socket(shared_lab: Lab, agent: RunningAgent) -> None:
    assert agent.files.control.stat().st_mode & 0o777 == 0o660
    argv = [LICET, "status", "--config", agent.files.config]
    assert_refused(shared_lab.call(shared_lab.host, argv, uid=1499, check=False), FAILED, "control.sock")


def test_not_root(shared_lab: Lab, idle: RunningAgent) -> None:
    assert_refused(run(shared_lab, idle, uid=1499), FAILED, "root")


@pytest.mark.parametrize("command", ["status", "flows", "listeners", "events"])
def test_asking_a_daemon_that_does_not_run(idle: RunningAgent, command: str) -> None:
    done = idle.licet(command, check=False)
    assert_refused(done, FAILED, "no daemon answers", "licet run", lines=3)


def test_a_scope_that_is_no_cgroup(shared_lab: Lab, idle: RunningAgent) -> None:
    text = idle.files.config.read_text()
    idle.files.config.write_text(text.replace(f"cgroup: {shared_lab.scope}", "cgroup: /no/such.slice"))
    assert_refused(run(shared_lab, idle), FAILED, "scope.cgroup", "/no/such.slice")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("acceptr: always", "acceptr"),
        ("acceptor: sometimes", "acceptor"),
        ("listen: nowhere", "listen"),
        ("intervals: {summary: -1}", "intervals.summary"),
        ("- a list", "YAML"),
    ],
)
def test_a_wrong_setting_is_named(shared_lab: Lab, idle: RunningAgent, line: str, says: str) -> None:
    kept = [one for one in idle.files.config.read_text().splitlines() if not one.startswith("listen:")]
    idle.files.config.write_text("\n".join([*kept, line, ""]))
    done = run(shared_lab, idle)
    assert_refused(done, USAGE, says, lines=len(done.stderr.splitlines()))


def test_a_configuration_that_is_not_there(shared_lab: Lab, idle: RunningAgent) -> None:
    idle.files.config.unlink()
    done = run(shared_lab, idle)
    idle.files.config.write_text(f"paths: {{pins: {idle.files.pins}, run: {idle.files.control.parent}}}\n")
    assert_refused(done, USAGE, "config.yaml: no such file")


@pytest.mark.parametrize("name", ["state/ids.json", "state/modes.json", "run/licet.lock"])
@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a FIFO"), (os.mkdir, "a directory")])
def test_what_is_no_file_where_one_is_kept(
    shared_lab: Lab, idle: RunningAgent, name: str, make: Callable[[Path], None], kind: str
) -> None:
    path = idle.files.directory / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    make(path)
    done = run(shared_lab, idle)
    remedy = "remove it" if name == "run/licet.lock" else f"mv {path} {path}.bad"
    said = done.stderr.splitlines()
    assert_refused(done, FAILED, f"{path}: cannot be", f"it is {kind}", remedy, lines=len(said))
    (path.unlink if path.is_fifo() else path.rmdir)()
    idle.licet("unload")


def test_a_configuration_that_nobody_writes_is_not_waited_for(shared_lab: Lab, idle: RunningAgent) -> None:
    text = idle.files.config.read_text()
    idle.files.config.unlink()
    os.mkfifo(idle.files.config)
    done = run(shared_lab, idle)
    idle.files.config.unlink()
    idle.files.config.write_text(text)
    assert_refused(
        done, USAGE, "config.yaml: cannot be read: it is a FIFO, and no process wrote to it for 5 s"
    )


def test_a_bad_policy_at_the_first_start(shared_lab: Lab, idle: RunningAgent) -> None:
    idle.files.write_policy("version: 1\nservices:\n  db: {ports: [{port: 99999, class: internal}]}\n")
    done = run(shared_lab, idle)
    assert_refused(done, NO, "policy.yaml:3", lines=len(done.stderr.splitlines()))
    idle.licet("unload")


def test_a_kernel_without_btf(shared_lab: Lab, idle: RunningAgent) -> None:
    before = in_own_mounts("mount -t tmpfs none /sys/kernel/btf")
    assert_refused(run(shared_lab, idle, *before), FAILED, "BTF")


def test_a_host_without_cgroup2(shared_lab: Lab, idle: RunningAgent) -> None:
    before = in_own_mounts("umount --all --types cgroup2")
    assert_refused(run(shared_lab, idle, *before), FAILED, "cgroup2", "mount -t cgroup2")


def test_pins_on_an_ordinary_file_system(shared_lab: Lab, idle: RunningAgent) -> None:
    text = idle.files.config.read_text()
    idle.files.config.write_text(text.replace(str(idle.files.pins), str(shared_lab.directory / "pins")))
    assert_refused(run(shared_lab, idle), FAILED, "BPF file system")
    idle.files.config.write_text(text)


def test_a_pinned_map_of_another_shape(shared_lab: Lab, idle: RunningAgent) -> None:
    path = idle.files.pins / str(ABI_VERSION) / "maps" / "flows"
    path.parent.mkdir(parents=True)
    fd = bpf_map.map_create(BPF_MAP_TYPE_HASH, "flows", 8, 8, 16)
    libbpf.pin(fd, path)
    os.close(fd)
    assert_refused(run(shared_lab, idle), FAILED, "flows", "licet unload")
    assert pins_in(idle.files.pins) == [path]
    idle.licet("unload")


def test_pins_of_another_version(shared_lab: Lab, idle: RunningAgent) -> None:
    other = idle.files.pins / "0" / "maps"
    other.mkdir(parents=True)
    assert_refused(run(shared_lab, idle), FAILED, "ABI 0", "licet unload --all")
    idle.licet("unload", "--all")
    assert not other.exists()


def test_a_damaged_state_file_is_named_with_its_remedy(shared_lab: Lab, idle: RunningAgent) -> None:
    state = Path(idle.files.directory / "state" / "ids.json")
    state.parent.mkdir()
    state.write_text("{ not json")
    assert_refused(run(shared_lab, idle), FAILED, str(state), "licet unload")
    idle.licet("unload")


def test_after_every_refusal_the_same_agent_starts_when_the_cause_is_gone(
    shared_lab: Lab, idle: RunningAgent
) -> None:
    before = in_own_mounts("mount -t tmpfs none /sys/kernel/btf")
    assert run(shared_lab, idle, *before).returncode == FAILED
    idle.start()
    assert idle.status()["ready"] is True
    idle.stop()
