import json

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.kernel import features
from agent.kernel.features import Feature

FOUND = Feature("BTF", True, "/sys/kernel/btf/vmlinux", "nothing", required=True)
OPTIONAL = Feature("fexit", False, "Operation not permitted", "kretprobe", required=False)
NEEDED = Feature("bpffs", False, "No such device", "nothing: programs live there", required=True)


def doctor(monkeypatch: pytest.MonkeyPatch, probed: list[Feature], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(features, "probe", lambda pins: probed)
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_what_is_missing_is_shown_with_what_happens_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = doctor(monkeypatch, [FOUND, OPTIONAL])
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()][2] == [
        "fexit",
        "no",
        "Operation",
        "not",
        "permitted",
        "kretprobe",
    ]


def test_it_fails_where_licet_can_not_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = doctor(monkeypatch, [FOUND, OPTIONAL, NEEDED])
    assert (code, err) == (1, "licet: cannot run here; missing: bpffs\n")


def test_json_says_the_same_and_fails_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = doctor(monkeypatch, [NEEDED], "--json")
    assert code == 1
    assert json.loads(out) == [
        {
            "name": "bpffs",
            "found": False,
            "detail": "No such device",
            "instead": "nothing: programs live there",
            "required": True,
        }
    ]
