"""The installed command as its caller sees it: exit codes, stderr, signals, pipes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent as package
from tests.fixtures.waiting import wait_for
from tests.unit.export.fake_agent import FakeAgent
from tests.unit.export.serving import serving

LICET = Path(sys.executable).parent / "licet"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"paths": {"run": str(tmp_path / "run"), "pins": str(tmp_path / "pins")}}))
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    fake = FakeAgent()
    with serving(fake, tmp_path / "run" / "control.sock"):
        yield fake


def licet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LICET, *arguments], capture_output=True, text=True, check=False, timeout=30, env={"PATH": "/usr/bin"}
    )


def test_version_is_the_packages() -> None:
    assert licet("version").stdout == f"{package.__version__}\n"


def test_without_a_daemon_lines_say_what_to_do(config: Path) -> None:
    for command in ("status", "mode", "events", "flows", "listeners"):
        ended = licet(command, "--config", config)
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 3
        assert ended.stderr.startswith("licet: no daemon answers at ")
        assert "licet run" in ended.stderr


def test_the_configuration_may_be_named_before_the_command_and_after(config: Path, agent: FakeAgent) -> None:
    assert json.loads(licet("--config", config, "status", "--json").stdout)["mode"] == "observe"
    assert json.loads(licet("status", "--json", "--config", config).stdout)["mode"] == "observe"
    other = config.with_name("other.yaml")
    other.write_text("{}")
    assert json.loads(licet("--config", other, "status", "--json", "-c", config).stdout)["mode"] == "observe"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("listen: [", "not YAML"),
        ("- a", "expected a mapping"),
        ("listn: x", ":1: listn: no such setting; did you mean 'listen'?"),
        ("intervals: {summary: 0}", "intervals.summary: "),
    ],
)
def test_a_bad_configuration_is_a_usage_error_with_file_and_key(
    config: Path, text: str, complaint: str
) -> None:
    config.write_text(text)
    ended = licet("status", "--config", config)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"licet: {config}:1: ")
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = licet("run", "--config", tmp_path / "none.yaml")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"licet: {tmp_path}/none.yaml: no such file: write it, or ")


@pytest.mark.parametrize("arguments", [["stat"], ["status", "--jason"], ["events", "--limit", "-1"]])
def test_a_mistyped_command_is_a_usage_error(arguments: list[str]) -> None:
    ended = licet(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_an_error_nobody_foresaw_is_one_line_too(config: Path, agent: FakeAgent) -> None:
    agent.status_fields = {"mode": "of a version that knows other fields"}
    ended = licet("status", "--config", config)
    assert ended.returncode == 1
    assert ended.stderr == "licet: KeyError: 'policy' (LICET_DEBUG=1 shows the traceback)\n"


def test_a_follower_prints_as_events_come_and_ends_with_ctrl_c(config: Path, agent: FakeAgent) -> None:
    follower = subprocess.Popen(
        [LICET, "events", "--follow", "--json", "--limit", "1", "--config", config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # what a shell starts in the background ignores SIGINT, and its children would, too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with follower:
        assert follower.stdout is not None
        agent.log.write({"type": "use", "n": 1})
        assert json.loads(follower.stdout.readline())["n"] == 1
        agent.log.write({"type": "use", "n": 2})
        assert json.loads(follower.stdout.readline())["n"] == 2
        follower.send_signal(signal.SIGINT)
        out, err = follower.communicate(timeout=10)
    assert (follower.returncode, out, err) == (130, "", "")


def test_a_reader_that_has_seen_enough_is_no_traceback(config: Path, agent: FakeAgent) -> None:
    for n in range(100):
        agent.log.write({"type": "use", "n": n, "filler": "x" * 1000})
    piped = subprocess.run(
        ["/bin/sh", "-c", f'"{LICET}" events --json --config "{config}" | head -n 1'],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (json.loads(piped.stdout)["n"], piped.stderr) == (50, "")


def test_a_follower_ends_when_the_daemon_stops(config: Path, tmp_path: Path) -> None:
    fake = FakeAgent()
    fake.log.write({"type": "use", "n": 1})
    with serving(fake, tmp_path / "run" / "control.sock"):
        follower = subprocess.Popen(
            [LICET, "events", "-f", "--json", "-c", config],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert follower.stdout is not None
        follower.stdout.readline()
    with follower:
        wait_for(lambda: follower.poll() is not None, "the follower ends")
        _, err = follower.communicate(timeout=5)
    assert (follower.returncode, err) == (0, "")


def test_closed_streams_are_no_mistake_of_ours(config: Path) -> None:
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        command = f"{LICET} version {closed}; {LICET} listeners --config {config} {closed}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert "Error" not in done.stderr
        assert done.returncode == 1
