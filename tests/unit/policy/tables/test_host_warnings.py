"""What the policy speaks of and this host has not, or has in a way that selects nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.model import HostFacts, Script
from agent.policy.document.load import load_policy_files
from agent.policy.tables.host_warnings import host_warnings

PSQL, BEHIND = "/usr/bin/psql", "/usr/lib/postgresql/15/bin/psql"
POLICY = """
version: 1
services: {{db: {{product: p, owner: [{{{owner}}}], ports: [{{port: 5432, class: internal}}]}}}}
principals: {{app: [{{{selector}}}]}}
licenses: [{{id: l, product: p, entitlements: [{{id: e, principals: [app]}}]}}]
"""


def warned(tmp_path: Path, facts: HostFacts, selector: str, owner: str = "uid: 26") -> list[str]:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.format(selector=selector, owner=owner))
    return [str(each).partition(": ")[2] for each in host_warnings(load_policy_files([file]), facts)]


def facts(**more: object) -> HostFacts:
    return HostFacts(host_netns=1, addresses=(), executables=frozenset({PSQL}), **more)  # type: ignore[arg-type]


def test_a_script_is_told_with_the_program_it_starts(tmp_path: Path) -> None:
    here = facts(scripts={PSQL: Script(PSQL, "/usr/bin/perl", (BEHIND,))})
    assert warned(tmp_path, here, f"exe: {PSQL}") == [
        f"principal 'app': '{PSQL}' is a script: the process that runs it is /usr/bin/perl, then {BEHIND} "
        f"(name {BEHIND})"
    ]


def test_a_script_that_starts_nothing_is_told_with_its_interpreter(tmp_path: Path) -> None:
    here = facts(scripts={PSQL: Script(PSQL, "/usr/bin/python3.11")})
    (told,) = warned(tmp_path, here, "uid: 7", owner=f"exe: {PSQL}")
    assert told.startswith(
        f"service 'db', owner: '{PSQL}' is a script: the process that runs it is /usr/bin/python3.11 ("
    )
    assert "together with a unit or user" in told


def test_a_glob_that_finds_only_scripts_is_told_with_one(tmp_path: Path) -> None:
    here = facts(scripts={"/usr/bin/p*": Script(PSQL, "/usr/bin/perl")})
    (told,) = warned(tmp_path, here, "exe: /usr/bin/p*")
    assert f"'/usr/bin/p*' matches only scripts, such as {PSQL}: the process" in told


@pytest.mark.parametrize("key", ["unit", "owner"])
def test_a_unit_without_a_process_is_told_with_the_reason(tmp_path: Path, key: str) -> None:
    here = facts(cgroups={"/system.slice/x.service": 5}, units_at_rest={"postgresql.service": "it ends"})
    selector, owner = ("unit: postgresql.service", "uid: 26")
    if key == "owner":
        selector, owner = "uid: 7", "unit: postgresql.service"
    (told,) = warned(tmp_path, here, selector, owner)
    assert "unit 'postgresql.service' selects no process now: it ends (name the unit that the" in told
    assert "is not running" not in told


def test_a_principal_that_nothing_names_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        POLICY.format(selector="uid: 7", owner="uid: 26")
        + "restrictions: [{exclude: out, target: db}]\n".replace("out", "gone")
    )
    text = file.read_text().replace(
        "{app: [{uid: 7}]}", "{app: [{uid: 7}], gone: [{uid: 8}], spare: [{uid: 9}]}"
    )
    file.write_text(text)
    (told,) = load_policy_files([file]).warnings
    assert "principal 'spare' is not used by any license or restriction" in str(told)


@pytest.mark.parametrize(("selector", "who"), [("user: bob", "user 'bob'"), ("uid: [5, 1002]", "uid 1002")])
def test_a_user_whose_uid_was_given_to_somebody_excluded_is_told(
    tmp_path: Path, selector: str, who: str
) -> None:
    given = {1605: (range(1000, 1003),), 1002: (range(1002, 1003),)}
    here = facts(users={"bob": 1002}, subordinates=given)
    assert warned(tmp_path, here, selector) == [
        f"principal 'app': {who} is a subordinate id of uid 1605 (subuid), and is excluded with it "
        "(give uid 1605 other subordinate ids)"
    ]
    assert warned(tmp_path, facts(subordinates=given), "uid: 1003") == []
