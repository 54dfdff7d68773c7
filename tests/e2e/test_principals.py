"""Who a principal is: every selector, alone and together, from the first connect on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import cgroups
from tests.fixtures.lab import Lab, load_program
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, matching, told
from tests.fixtures.waiting import wait_for

FIRST_PORT = 7400
SELECTORS = {
    "exe-literal": "{{exe: {top}/lit/tool}}",
    "exe-glob": "{{exe: {top}/glob/too*}}",
    "exe-directory": "{{exe: {top}/dir/*}}",
    "exe-tree": "{{exe: {top}/tree/**}}",
    "user": "{{user: nobody}}",
    "uid": "{{uid: 1401}}",
    "group": "{{gid: 1402}}",
    "unit": "{{unit: billing.service}}",
    "cgroup": "{{cgroup: {scope}/team.slice}}",
    "cidr-remote": "{{cidr: 10.77.2.0/24}}",
    "cidr-container": "{{cidr: 10.77.1.2/32}}",
    "both": "{{exe: {top}/both/*, uid: 1403}}",
    "either": "{{uid: 1404}}, {{unit: either.service}}",
    "banned": "{{uid: 1405}}",
    "everybody": "",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One connection: to the service whose principal `selector` names, and whether that lets it in."""

    selector: str
    allowed: bool
    who: str
    run: dict[str, Any] = field(default_factory=dict)
    program: str = "elsewhere/tool"
    place: str = "host"


CASES = [
    Case("exe-literal", True, "its path", program="lit/tool"),
    Case("exe-literal", False, "a neighbour", program="lit/tool2"),
    Case("exe-directory", True, "a file in it", program="dir/anything"),
    Case("exe-directory", False, "a file below a directory in it", program="dir/deeper/tool"),
    Case("user", True, "the user", {"uid": 65534}),
    Case("user", False, "another user", {"uid": 1499}),
    Case("uid", True, "the uid", {"uid": 1401}),
    Case("uid", False, "another uid with that gid", {"uid": 1499, "gid": 1401}),
    Case("group", True, "primary group", {"uid": 1499, "gid": 1402}),
    Case("group", True, "supplementary group", {"uid": 1499, "groups": [7, 1402, 9]}),
    Case("group", False, "a uid of that number", {"uid": 1402, "gid": 1499}),
    Case("unit", True, "in the unit", {"cgroup": "billing.service"}),
    Case("unit", True, "in a cgroup of the unit", {"cgroup": "billing.service/worker-1"}),
    Case("unit", False, "in another unit", {"cgroup": "notbilling.service"}),
    Case("unit", False, "a name below another unit", {"cgroup": "user@1.service/billing.service"}),
    Case("cgroup", True, "in it", {"cgroup": "team.slice"}),
    Case("cgroup", True, "below it", {"cgroup": "team.slice/a/b"}),
    Case("cgroup", False, "beside it", {"cgroup": "team.slice2"}),
    Case("cidr-remote", True, "from that network", place="remote"),
    Case("cidr-remote", False, "a process of the host", place="host"),
    Case("cidr-remote", False, "a container elsewhere", place="container"),
    Case("cidr-container", True, "the container with that address", place="container"),
    Case("cidr-container", False, "another machine", place="remote"),
    Case("both", True, "both hold", {"uid": 1403}, program="both/tool"),
    Case("both", False, "only the uid", {"uid": 1403}),
    Case("both", False, "only the executable", {"uid": 1499}, program="both/tool"),
    Case("either", True, "the first", {"uid": 1404}),
    Case("either", True, "the second", {"cgroup": "either.service"}),
    Case("either", False, "neither", {"uid": 1499}),
    Case("everybody", True, "anyone", {"uid": 1499}),
    Case("everybody", True, "anyone from elsewhere", place="remote"),
]


def policy(lab: Lab) -> str:
    services = "".join(
        f"  {name}: {{product: acme, ports: [{{port: {port_of(name)}, class: internal}}]}}\n"
        for name in SELECTORS
    )
    principals = "".join(
        f"  is-{name}: [{text.format(top=lab.directory, scope=lab.scope)}]\n"
        for name, text in SELECTORS.items()
        if text
    )
    entitlements = "".join(
        f"      - {{id: to-{name}, services: [{name}], principals: [{granted_to(name)}]}}\n"
        for name in SELECTORS
    )
    return (
        f"version: 1\nservices:\n{services}principals:\n{principals}"
        f"licenses:\n  - id: acme\n    product: acme\n    entitlements:\n{entitlements}"
        "restrictions: [{exclude: is-banned, target: banned}]\n"
    )


def granted_to(service: str) -> str:
    return "anyone" if service in ("everybody", "banned") else f"is-{service}"


def port_of(service: str) -> int:
    return FIRST_PORT + list(SELECTORS).index(service)


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    lab = shared_lab
    for service in SELECTORS:
        lab.serve(lab.host, lab.host.v4, port_of(service))
    with lab.agent(policy(lab)) as running:
        yield running


def decision(lab: Lab, agent: RunningAgent, case: Case) -> str:
    before = connections(agent, case.selector)
    place = getattr(lab, case.place)
    made = lab.load(
        place,
        lab.host.v4,
        port_of(case.selector),
        program=lab.executable(case.program),
        **case.run,
    )
    assert made["ok"] == 1
    now = connections(agent, case.selector)
    ((changed, count),) = [(key, now[key] - before.get(key, 0)) for key in now if now[key] != before.get(key)]
    assert count == 1
    origins = {"host": "loopback", "container": "container", "remote": "remote"}
    assert changed[0] == origins[case.place]
    return changed[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.selector}: {case.who}")
def test_a_selector_takes_whom_it_names_and_nobody_else(
    shared_lab: Lab, agent: RunningAgent, case: Case
) -> None:
    assert decision(shared_lab, agent, case) == ("allowed" if case.allowed else "denied")


STARRED = [
    Case("exe-glob", True, "a match", program="glob/tooth"),
    Case("exe-glob", False, "no match", program="glob/other"),
]
GLOBS = [
    Case("exe-tree", True, "a file far below", program="tree/a/b/tool"),
    Case("exe-tree", False, "a file beside", program="treehouse/tool"),
]


@pytest.mark.parametrize("case", STARRED, ids=lambda case: f"{case.selector}: {case.who}")
def test_a_name_that_a_glob_with_one_star_has_not_met_is_judged_at_once(
    shared_lab: Lab, agent: RunningAgent, case: Case
) -> None:
    shared_lab.executable(case.program)
    assert decision(shared_lab, agent, case) == ("allowed" if case.allowed else "denied")


@pytest.mark.parametrize("case", GLOBS, ids=lambda case: f"{case.selector}: {case.who}")
def test_a_name_that_a_glob_has_not_met_is_soon_what_it_is(
    shared_lab: Lab, agent: RunningAgent, case: Case
) -> None:
    lab = shared_lab
    exe = lab.executable(case.program)
    of_it = {"service": case.selector, "consumer.exe": str(exe)}
    port = port_of(case.selector)
    settled = {True: {"type": "use", "reason": "licensed"}, False: {"type": "violation"}}[case.allowed]

    def resolved() -> bool:
        lab.load(lab.host, lab.host.v4, port, program=exe)
        return bool(matching(agent, of_it | settled))

    wait_for(resolved, "the name is known")
    assert decision(lab, agent, case) == ("allowed" if case.allowed else "denied")


def test_an_exclusion_beats_a_license(shared_lab: Lab, agent: RunningAgent) -> None:
    assert decision(shared_lab, agent, Case("banned", True, "anyone", {"uid": 1499})) == "allowed"
    assert decision(shared_lab, agent, Case("banned", False, "excluded", {"uid": 1405})) == "denied"
    told(agent, {"type": "violation", "service": "banned", "reason": "excluded", "consumer.uid": 1405})


@pytest.mark.parametrize(("folder", "expected"), [("dir", "allowed"), ("elsewhere", "denied")])
def test_a_copy_made_just_now_is_judged_by_where_it_is(
    shared_lab: Lab, agent: RunningAgent, folder: str, expected: str
) -> None:
    for number in range(5):
        fresh = Case("exe-directory", True, "a fresh copy", program=f"{folder}/fresh-{number}")
        assert decision(shared_lab, agent, fresh) == expected


def test_a_file_replaced_by_an_upgrade_keeps_its_right(shared_lab: Lab, agent: RunningAgent) -> None:
    case = Case("exe-literal", True, "its path", program="lit/tool")
    assert decision(shared_lab, agent, case) == "allowed"
    path = shared_lab.executable("lit/tool")
    shutil.copy2(load_program(), path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)
    assert decision(shared_lab, agent, case) == "allowed"


def test_a_licensed_file_that_is_moved_away_loses_its_right(shared_lab: Lab, agent: RunningAgent) -> None:
    here = Case("exe-directory", True, "where it was", program="dir/mover")
    assert decision(shared_lab, agent, here) == "allowed"
    there = shared_lab.directory / "elsewhere" / "mover"
    there.parent.mkdir(exist_ok=True)
    shared_lab.executable("dir/mover").rename(there)
    moved = Case("exe-directory", False, "where it is", program="elsewhere/mover")
    assert decision(shared_lab, agent, moved) == "denied"


def test_a_users_symlink_in_a_licensed_directory_gives_no_right(shared_lab: Lab, agent: RunningAgent) -> None:
    """One of root's would, within 2 s: who made it is who licensed what it leads to."""
    target = shared_lab.executable("elsewhere/tool")
    made = shared_lab.directory / "link"
    made.symlink_to(target)
    os.lchown(made, 1499, 1499)
    link = shared_lab.directory / "dir" / "link"
    link.parent.mkdir(exist_ok=True)
    made.rename(link)
    assert decision(shared_lab, agent, Case("exe-directory", False, "a link", program="dir/link")) == "denied"


MOUNTED_OVER = """\
set -e
mount --bind "$1" "$2"
exec "$2" "$3" "$4" --connections 1
"""


def test_a_file_mounted_over_a_licensed_path_in_a_users_own_namespace_is_denied(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    lab = shared_lab
    own, licensed = lab.executable("elsewhere/own"), lab.executable("lit/tool")
    port = port_of("exe-literal")
    before = connections(agent, "exe-literal")
    script = ["bash", "-c", MOUNTED_OVER, "bash", own, licensed, lab.host.v4, str(port)]
    lab.call(lab.host, ["unshare", "-Urm", *script], uid=1499)
    denied = before.get(("loopback", "denied"), 0) + 1
    assert connections(agent, "exe-literal") == before | {("loopback", "denied"): denied}


def test_a_unit_restarted_while_the_daemon_is_dead_is_still_the_unit(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    lab = shared_lab
    case = Case("unit", True, "the unit again", {"cgroup": "billing.service"})
    assert decision(lab, agent, case) == "allowed"
    path = lab.cgroup("billing.service")
    number = cgroups.directory(path).stat().st_ino
    before = connections(agent, "unit")
    agent.kill9()
    cgroups.remove(path)
    lab.cgroup("billing.service")
    assert cgroups.directory(path).stat().st_ino != number
    port = port_of("unit")
    lab.load(lab.host, lab.host.v4, port, program=lab.executable("elsewhere/tool"), cgroup="billing.service")
    agent.start()
    allowed = before["loopback", "allowed"] + 1
    assert connections(agent, "unit") == before | {("loopback", "allowed"): allowed}


def test_every_denial_named_its_process(shared_lab: Lab, agent: RunningAgent) -> None:
    for event in matching(agent, {"type": "violation", "consumer.identity": "process"}):
        assert Path(event["consumer"]["exe"]).is_relative_to(shared_lab.directory)
        assert event["owner"]["exe"] == str(shared_lab.executable("load"))
