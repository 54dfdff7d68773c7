"""The archive for a bug report: with a daemon, without one, and with everything broken."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agent.cli.app import app
from tests.unit.export.fake_agent import STATUS, FakeAgent
from tests.unit.export.serving import serving

POLICY = "version: 1\nservices:\n  db: {ports: [{port: 5432, class: internal}]}  # password: hunter2\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    names = ("run", "state", "pins", "policy_dir", "licenses", "keys")
    places = {name: str(tmp_path / name) for name in names}
    path = tmp_path / "config.yaml"
    path.write_text(
        json.dumps(
            {
                "paths": places | {"policy": str(tmp_path / "policy.yaml")},
                "events": {"sink": str(tmp_path / "events.jsonl")},
            }
        )
    )
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ids.json").write_text("{}")
    (tmp_path / "events.jsonl").write_text('{"type":"violation","consumer":{"args":["curl","-u x:y"]}}\n')
    return path


def dumped(config: Path, archive: Path) -> tuple[Result, dict[str, str]]:
    """How the command ended, and the text of each file by its name in the archive."""
    result = CliRunner().invoke(app, ["sysdump", "--config", str(config), "--output", str(archive)])
    assert result.exit_code == 0, result.output
    with tarfile.open(archive) as opened:
        files = {one.name.partition("/")[2]: opened.extractfile(one) for one in opened.getmembers()}
        return result, {name: file.read().decode() for name, file in files.items() if file}


def test_a_running_daemon_is_asked_for_all_it_knows(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = FakeAgent()
    with serving(agent, tmp_path / "run" / "control.sock") as servers:
        monkeypatch.setitem(STATUS, "listen", servers.public_address)
        _, files = dumped(config, tmp_path / "dump.tar.gz")
    assert json.loads(files["daemon/status.json"])["version"]
    for name in ("policy", "mode", "listeners", "flows", "events"):
        assert f"daemon/{name}.json" in files
    for name in ("versions.json", "doctor.json", "policy/policy.yaml", "state/ids.json", "logs/events.jsonl"):
        assert name in files
    assert "licet_connections_total" in files["daemon/metrics.txt"]
    assert "kernel/pins.json" in files


def test_license_files_are_in_it_as_they_are_and_no_private_key(config: Path, tmp_path: Path) -> None:
    document = '{"payload": "aGk=", "signatures": [{"keyid": "5f", "sig": "c2lnbmF0dXJl"}], "token": "x"}'
    pem = "-----BEGIN PRIVATE KEY-----\nhunter3\n-----END PRIVATE KEY-----\n"
    contents = {
        "licenses/acme.json": document,
        "licenses/a\x1b[31m.json": "{",
        "keys/acme.yaml": "{kid: 5f, public_key: aGk=}\n",
        "keys/mistaken.yml": pem,
        "state/licenses/told.json": "{}",
        "state/host.key": pem,
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with serving(FakeAgent(), tmp_path / "run" / "control.sock"):
        _, files = dumped(config, tmp_path / "dump.tar.gz")
    for name in ("licenses/acme.json", "keys/acme.yaml", "state/licenses/told.json"):
        assert files[name] == contents[name]
    assert "acme-2026" in files["daemon/licenses.json"]
    assert "hunter3" not in "".join(files.values())
    assert not any("host.key" in name for name in files)


def test_without_a_daemon_the_rest_is_still_there(config: Path, tmp_path: Path) -> None:
    result, files = dumped(config, tmp_path / "dump.tar.gz")
    assert "daemon/status.json" not in files
    assert "no daemon answers" in files["missing.txt"]
    assert "no daemon answers" in result.stderr
    assert json.loads(files["versions.json"])["libraries"]["pydantic"]


def test_no_secret_and_no_argument_is_in_it(config: Path, tmp_path: Path) -> None:
    _, files = dumped(config, tmp_path / "dump.tar.gz")
    assert "hunter2" not in "".join(files.values())
    assert "curl" not in files["logs/events.jsonl"]
    assert "violation" in files["logs/events.jsonl"]


def test_a_configuration_that_is_wrong_is_in_it_and_stops_nothing(config: Path, tmp_path: Path) -> None:
    config.write_text("listen: nowhere\n")
    _, files = dumped(config, tmp_path / "dump.tar.gz")
    assert files["config.yaml"] == "listen: nowhere\n"
    assert "HOST:PORT" in files["missing.txt"]


def test_only_its_owner_can_read_it_and_no_file_is_overwritten(config: Path, tmp_path: Path) -> None:
    archive = tmp_path / "dump.tar.gz"
    before = os.umask(0)
    try:
        dumped(config, archive)
    finally:
        os.umask(before)
    assert archive.stat().st_mode & 0o777 == 0o600
    again = CliRunner().invoke(app, ["sysdump", "--config", str(config), "--output", str(archive)])
    assert again.exit_code != 0
