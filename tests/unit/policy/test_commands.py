"""`licet policy check | test | show` and `licet explain`, as an operator runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli.app import app
from agent.errors import LicetError, PolicyErrors
from tests.unit.policy.mistakes import WHOLE

EXAMPLES = Path(__file__).parents[3] / "packaging" / "examples"


def licet(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(WHOLE.replace("group: sre", "uid: 4242"))
    return file


def test_a_fine_policy_ends_with_0(policy: Path) -> None:
    """Its unit runs on another host."""
    result = licet("policy", "check", "--elsewhere", policy)
    assert (result.exit_code, result.output) == (0, "fine: 3 targets, 2 principals, 1 license\n")


def test_every_mistake_is_printed_and_the_exit_code_is_3(policy: Path) -> None:
    policy.write_text(WHOLE.replace("port: 80", "port: 0").replace("unit: billing", "units: billing"))
    result = licet("policy", "check", policy)
    assert result.exit_code == 3
    assert result.output.splitlines() == [
        f"{policy}:6: service 'web', ports: port 0 is outside 1-65535",
        f"{policy}:8: principal 'billing': unknown key 'units' (did you mean 'unit'?)",
        "2 errors",
    ]


def test_mistakes_as_json_have_file_line_reason_and_remedy(policy: Path) -> None:
    policy.write_text(WHOLE.replace("version: 1", "version: 9"))
    result = licet("policy", "check", "--json", policy)
    found = json.loads(result.output)
    assert (result.exit_code, found["ok"], len(found["errors"])) == (3, False, 1)
    assert found["errors"][0] == {
        "file": str(policy),
        "line": 1,
        "reason": "version: the number 9 is not known",
        "remedy": "this licet reads 1",
    }


def test_a_warning_does_not_fail_the_check(policy: Path) -> None:
    policy.write_text(WHOLE.replace("group: sre", "exe: /no/such/program"))
    result = licet("policy", "check", policy)
    assert result.exit_code == 0
    assert (
        f"warning: {policy}:9: principal 'ops': no file on this host is '/no/such/program'" in result.output
    )


def test_what_this_host_lacks_is_no_warning_for_another(policy: Path) -> None:
    policy.write_text(WHOLE.replace("group: sre", "exe: /no/such/program"))
    assert "warning" not in licet("policy", "check", "--elsewhere", policy).output


def test_a_directory_is_checked_as_the_daemon_reads_it(policy: Path) -> None:
    (policy.parent / "10-more.yaml").write_text("version: 1\nprincipals: {ops: [{uid: 1}]}\n")
    result = licet("policy", "check", policy.parent)
    assert result.exit_code == 3
    assert f"already defined at {policy}:9" in result.output


def test_the_files_in_force_are_the_default(policy: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.txt"
    config.write_text(f"paths: {{policy: {policy}, policy_dir: {tmp_path / 'none'}}}\n")
    assert licet("policy", "check", "--config", config).exit_code == 0


def test_without_any_policy_there_is_nothing_to_check(tmp_path: Path) -> None:
    config = tmp_path / "config.txt"
    config.write_text(f"paths: {{policy: {tmp_path}/a.yaml, policy_dir: {tmp_path}/b}}\n")
    result = licet("policy", "check", "--config", config)
    assert isinstance(result.exception, LicetError)
    assert f"no policy file at {tmp_path}/a.yaml or {tmp_path}/b" in str(result.exception)


@pytest.mark.parametrize(("name", "count"), [("policy", 8), ("probes", 7)])
def test_the_examples_are_fine_and_decide_what_they_say(name: str, count: int) -> None:
    assert licet("policy", "check", EXAMPLES / f"{name}.yaml").exit_code == 0
    result = licet("policy", "test", EXAMPLES / f"{name}-tests.yaml")
    assert (result.exit_code, result.output) == (0, f"{count} of {count} cases hold\n")


def cases(policy: Path, *lines: str) -> Path:
    file = policy.parent / "cases.txt"
    file.write_text("\n".join(("policy: policy.yaml", "cases:", *(f"  - {line}" for line in lines), "")))
    return file


def test_a_case_that_does_not_hold_says_what_was_decided_and_why(policy: Path) -> None:
    file = cases(policy, "{name: x, target: web, consumer: {uid: 1}, expect: allowed}")
    result = licet("policy", "test", file)
    assert result.exit_code == 3
    assert f"{file}:3: x: expected allowed" in result.output
    assert "web/public: denied, unlicensed_principal" in result.output
    assert "0 of 1 case holds" in result.output


def test_a_case_may_expect_a_reason(policy: Path) -> None:
    line = "{target: web, consumer: {uid: 1}, expect: denied, reason: %s}"
    assert licet("policy", "test", cases(policy, line % "unlicensed_principal")).exit_code == 0
    assert licet("policy", "test", cases(policy, line % "excluded")).exit_code == 3


def test_names_this_machine_does_not_have_can_still_be_tested(policy: Path) -> None:
    policy.write_text(WHOLE.replace("{group: sre}", "{user: no-such-user, group: no-such-group}"))
    consumer = "{user: no-such-user, groups: [no-such-group]}"
    file = cases(
        policy,
        f"{{target: web, consumer: {consumer}, expect: allowed}}",
        "{target: web, consumer: {user: no-such-user}, expect: denied}",
    )
    assert licet("policy", "test", file).exit_code == 0


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "{target: web, consumer: {uid: 1}, expect: perhaps}",
            "'perhaps' is not one of allowed, grace, denied",
        ),
        ("{target: web, consumer: {uid: 1}}", "lacks 'expect'"),
        ("{target: web, consumer: {pid: 1}, expect: denied}", "unknown key 'pid'"),
        ("{target: web, consumer: {address: x}, expect: denied}", "'x' is not a valid address"),
        ("{target: web, consumer: {address: 10.0.0.1, uid: 1}, expect: denied}", "only its address is known"),
        ("{target: web, consumer: {exe: /a/*}, expect: denied}", "is a pattern"),
        ("{target: db, consumer: {uid: 1}, expect: denied}", "write db/internal or db/admin"),
        ("{target: dbx, consumer: {uid: 1}, expect: denied}", "did you mean 'db'?"),
    ],
)
def test_a_mistake_in_a_case_is_told_with_its_line(policy: Path, line: str, cause: str) -> None:
    result = licet("policy", "test", cases(policy, line))
    assert isinstance(result.exception, PolicyErrors)
    (error,) = result.exception.errors
    assert error.line == 3
    assert cause in str(error)


def test_show_lists_who_may_use_what(policy: Path) -> None:
    text = licet("policy", "show", policy).output
    assert f"db/admin: 9187/tcp, product acme ({policy}:3)" in text
    assert f"  ops: l1/app, no end ({policy}:14)" in text
    shown = json.loads(licet("policy", "show", "--json", policy).output)
    assert shown["services"]["db"]["at"] == "host"
    assert len(shown["grants"]) == 6


def test_explain_answers_with_the_rule_and_the_exit_code(policy: Path) -> None:
    allowed = licet("explain", "--target", "web", "--unit", "billing.service", "--policy", policy)
    assert (allowed.exit_code, f"({policy}:14)" in allowed.output) == (0, True)
    assert licet("explain", "--target", "web", "--uid", "1", "--policy", policy).exit_code == 3
    remote = licet("explain", "--target", "web", "--from", "10.0.0.1", "--policy", policy, "--json")
    assert (remote.exit_code, json.loads(remote.output)["decision"]) == (3, "denied")


def test_explain_speaks_of_another_time(policy: Path) -> None:
    policy.write_text(WHOLE.replace("    ent", "    expires_at: 2026-01-01T00:00:00Z\n    ent"))
    asked = ("explain", "--target", "web", "--unit", "billing.service", "--policy", policy, "--at")
    assert licet(*asked, "2025-12-31T23:59:59Z").exit_code == 0
    assert licet(*asked, "2026-01-01T00:00:00Z").exit_code == 3


def test_explain_takes_a_running_process(policy: Path) -> None:
    policy.write_text(WHOLE.replace("group: sre", f"uid: {os.geteuid()}"))
    result = licet("explain", "--target", "web", "--pid", os.getpid(), "--policy", policy)
    assert (result.exit_code, f"uid {os.geteuid()}" in result.output) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--pid", "1", "--uid", "1"),
        ("--from", "10.0.0.1", "--uid", "1"),
        ("--from", "nowhere"),
        ("--exe", "relative"),
        ("--unit", "nginx"),
        ("--uid", "1", "--at", "tomorrow"),
        ("--user", "root", "--uid", "1"),
        ("--pid", str(2**22 + 1)),
    ],
)
def test_a_question_that_makes_no_sense_is_a_usage_error(policy: Path, arguments: tuple[str, ...]) -> None:
    result = licet("explain", "--target", "web", "--policy", policy, *arguments)
    assert (result.exit_code, "Traceback" in result.output) == (2, False)


CONTAINERS = """
version: 1
services: {web: {product: acme, ports: [{port: 80, class: internal}]}}
principals:
  front: [{container: {name: web-*, image: "nginx:*"}}]
licenses: [{id: l, product: acme, entitlements: [{id: e, principals: [front]}]}]
"""


def test_a_container_can_be_asked_about_and_tested(policy: Path, tmp_path: Path) -> None:
    policy.write_text(CONTAINERS)
    asked = ("explain", "--target", "web", "--policy", policy, "--container")
    allowed = licet(*asked, "web-1", "--image", "docker.io/library/nginx:1.25")
    assert (allowed.exit_code, "name web-* and image nginx:*" in allowed.output) == (0, True)
    denied = licet(*asked, "web-1", "--image", "redis:7")
    assert (denied.exit_code, "not in a container with name web-*" in denied.output) == (3, True)
    assert licet(*asked, "web-*").exit_code == 2
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        f"policy: {policy.name}\ncases:\n"
        "  - {target: web, consumer: {container: {name: web-2, image: nginx:1}}, expect: allowed}\n"
        "  - {target: web, consumer: {container: web-2}, expect: denied}\n"
    )
    assert licet("policy", "test", cases).exit_code == 0


def test_show_tells_both_ends_of_a_license(policy: Path) -> None:
    ends = "    expires_at: 2027-01-01T00:00:00Z\n    terminates_at: 2027-02-01T00:00:00Z\n"
    policy.write_text(policy.read_text().replace("  - id: l1\n", f"  - id: l1\n{ends}"))
    shown = licet("policy", "show", policy).output
    assert "l1/app, expires_at 2027-01-01T00:00:00Z, terminates_at 2027-02-01T00:00:00Z" in shown
