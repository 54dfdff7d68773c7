"""exe, user and group outside containers: what is told of those who lose a right, how many selectors there
may be, and who owns a service that runs in one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import PolicyErrors
from agent.model import Container, HostFacts, LocalConsumer, PortClass, Process, Script, Target
from agent.policy.decision.confined import REMEDY, REMEDY_ELSEWHERE, Seen, rights_lost
from agent.policy.decision.matching import Holds, match_principal
from agent.policy.decision.owners import could_be_owner
from agent.policy.decision.question import Question, consumer_of
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.host_warnings import host_warnings
from agent.policy.tables.ids import Ids
from agent.policy.values import Policy

PATH = f"/docker-{'a' * 64}.scope"
WEB = Container("a" * 64, "docker", "web-1", known=True)
FACTS = HostFacts(host_netns=1, addresses=(), containers={PATH: WEB}, cgroups={PATH: 5}, users={"billing": 7})
INSIDE = LocalConsumer("/usr/bin/psql", 7, frozenset({7}), (PATH,), netns=2)


def policy(principals: str, *, owner: str = "", at: str = "host", restrictions: str = "[]") -> Policy:
    return parse_policy(f"""
version: 1
services:
  db: {{product: p, at: {at}, {f"owner: {owner}, " if owner else ""}ports: [{{port: 5432, class: internal}}]}}
principals: {principals}
licenses: [{{id: l, product: p, entitlements: [{{id: e, principals: [billing]}}]}}]
restrictions: {restrictions}
""")


def lost(written: Policy, *consumers: LocalConsumer) -> list[str]:
    compiled = compile_policy(written, FACTS, Ids())
    seen = [Seen(each, f"process {number}") for number, each in enumerate(consumers)]
    return [str(finding) for finding in rights_lost(written, compiled, 1, seen)]


@pytest.mark.parametrize(
    "selector", ["exe: /usr/bin/psql", "user: billing", "gid: 7", "exe: /usr/bin/*, uid: 7"]
)
def test_a_principal_that_meant_what_runs_in_a_container_is_named(selector: str) -> None:
    (said,) = lost(policy(f"{{billing: [{{{selector}}}]}}"), INSIDE)
    assert (
        "policy.yaml:5: principal 'billing' matches only processes outside containers, so not process 0"
        in said
    )
    assert REMEDY in said


@pytest.mark.parametrize(
    "selectors",
    [
        '{exe: /usr/bin/psql, container: "*"}',
        "{container: web-*}",
        "{exe: /usr/bin/other}",
        '{user: billing}, {user: billing, container: "*"}',
    ],
)
def test_one_that_means_it_still_or_never_did_is_not(selectors: str) -> None:
    assert lost(policy(f"{{billing: [{selectors}]}}"), INSIDE) == []


def test_outside_containers_nothing_is_lost_and_below_another_root_only_by_exe() -> None:
    here = replace(INSIDE, cgroups=("/system.slice/x.service",))
    written = policy("{billing: [{exe: /usr/bin/psql}]}")
    assert lost(written, here) == []
    (said,) = lost(written, replace(here, exe_elsewhere=True))
    assert "matches only this host's files, so not those in the root directory of process 0" in said
    assert REMEDY_ELSEWHERE in said
    assert "*" not in said, "it is in no container, so that would not help"
    assert len(lost(written, replace(here, in_pid_namespace=True))) == 1
    assert lost(policy("{billing: [{user: billing}]}"), replace(here, exe_elsewhere=True)) == []


def test_owners_of_this_host_are_named_where_they_are_in_its_network() -> None:
    written = policy("{billing: [{unit: billing.service}]}", owner="[{exe: /usr/bin/psql}]")
    assert lost(written, INSIDE) == []
    (said,) = lost(written, replace(INSIDE, netns=1))
    assert "service 'db', owner" in said


def test_owners_of_a_service_at_a_container_are_processes_in_it() -> None:
    written = policy(
        "{billing: [{user: billing}]}", owner="[{exe: /usr/bin/postgres}]", at="{container: web-1}"
    )
    service = written.services["db"]
    inside = Process(exe="/usr/bin/postgres", cgroup=PATH, container=WEB, netns=2)
    assert could_be_owner(service.owners_there, inside, FACTS)
    assert not could_be_owner(service.owners_there, replace(inside, cgroup="/a", container=None), FACTS)
    other = replace(WEB, name="cache")
    assert not could_be_owner(service.owners_there, replace(inside, container=other), FACTS)
    compiled = compile_policy(written, FACTS, Ids())
    consumer = replace(INSIDE, exe="/usr/bin/postgres", exe_elsewhere=True)
    (match,) = match_principal(compiled, service.owner_name, consumer)
    assert match.holds is Holds.YES
    (match,) = match_principal(compiled, service.owner_name, replace(consumer, cgroups=("/a",)))
    assert match.holds is Holds.NO


def test_an_owner_on_the_host_is_none_in_a_container() -> None:
    service = policy("{billing: [{user: billing}]}", owner="[{exe: /usr/bin/postgres}]").services["db"]
    here = Process(exe="/usr/bin/postgres", cgroup="/system.slice/x.service", netns=1)
    assert could_be_owner(service.owners_there, here, FACTS)
    for there in ({"cgroup": PATH, "container": WEB}, {"in_pid_namespace": True}, {"exe_elsewhere": True}):
        assert not could_be_owner(service.owners_there, replace(here, **there), FACTS)


def test_a_principal_that_is_licensed_and_excluded_counts_twice() -> None:
    entries = ", ".join(f"{{uid: {number}}}" for number in range(512))
    written = f"{{billing: [{entries}]}}"
    assert policy(written)
    with pytest.raises(PolicyErrors, match="licensed and excluded counts twice"):
        policy(written, restrictions="[{exclude: billing, target: db}]")


def test_owners_count_as_selectors() -> None:
    entries = ", ".join(f"{{uid: {number}}}" for number in range(600))
    assert policy(f"{{billing: [{entries}]}}")
    with pytest.raises(PolicyErrors, match="service 'db', owner: 1,200 selectors in all, 1,023 are"):
        policy(f"{{billing: [{entries}]}}", owner=f"[{entries}]")


def test_what_is_excluded_only_counts_once() -> None:
    entries = ", ".join(f"{{uid: {number}}}" for number in range(1020))
    assert policy(f"{{billing: [{{uid: 1}}], bad: [{entries}]}}", restrictions="[{exclude: bad, target: db}]")


def test_a_container_that_is_asked_about_has_its_own_files_and_accounts() -> None:
    asked = consumer_of(Question(exe="/usr/bin/psql", user=7, container=WEB), {}, {}, 1)
    assert isinstance(asked, LocalConsumer)
    facts = replace(FACTS, containers={asked.cgroups[0]: WEB}, cgroups={asked.cgroups[0]: 1})
    for selector, holds in (
        ("{exe: /usr/bin/psql}", Holds.NO),
        ("{uid: 7}", Holds.NO),
        ('{exe: /usr/bin/psql, uid: 7, container: "*"}', Holds.YES),
    ):
        compiled = compile_policy(policy(f"{{billing: [{selector}]}}"), facts, Ids())
        (match,) = match_principal(compiled, "billing", asked)
        assert match.holds is holds, match.why
        assert ('add container: "*"' in match.why) is (holds is Holds.NO)


def test_below_another_root_directory_and_in_no_container_another_key_is_advised() -> None:
    compiled = compile_policy(policy("{billing: [{exe: /usr/bin/psql}]}"), FACTS, Ids())
    unit = replace(INSIDE, cgroups=("/system.slice/x.service",), exe_elsewhere=True)
    (match,) = match_principal(compiled, "billing", unit)
    assert match.holds is Holds.NO
    assert match.why.endswith("/usr/bin/psql is below another root directory: select it by unit or user")


def test_an_executable_alone_that_anybody_may_run_is_warned_of() -> None:
    facts = replace(
        FACTS,
        executables=frozenset({"/usr/bin/psql", "/opt/x/run"}),
        for_anybody=frozenset({"/usr/bin/psql"}),
    )
    said = [str(each) for each in host_warnings(policy("{billing: [{exe: /usr/bin/psql}]}"), facts)]
    assert len(said) == 1
    assert "any user may execute /usr/bin/psql" in said[0]
    for fine in ("{exe: /opt/x/run}", "{exe: /usr/bin/psql, user: billing}"):
        assert host_warnings(policy(f"{{billing: [{fine}]}}"), facts) == []


def test_a_script_is_warned_of_once() -> None:
    facts = replace(
        FACTS,
        executables=frozenset({"/usr/bin/psql"}),
        for_anybody=frozenset({"/usr/bin/psql"}),
        scripts={"/usr/bin/psql": Script("/usr/bin/psql", "/usr/bin/perl", ())},
    )
    (said,) = host_warnings(policy("{billing: [{exe: /usr/bin/psql}]}"), facts)
    assert "is a script" in str(said)


TWO = """
version: 1
services:
  db:
    product: p
    owner: [{exe: /usr/bin/psql}]
    ports: [{port: 1, class: internal}, {port: 2, class: admin}]
  web: {product: p, owner: [{exe: /usr/bin/psql}], ports: [{port: 3, class: public}]}
principals: {billing: [{exe: /usr/bin/psql}], ops: [{uid: 7}], nobody: [{gid: 7}]}
licenses:
  - id: l
    product: p
    entitlements:
      - {id: a, classes: [internal], principals: [billing]}
      - {id: b, classes: [admin, public], principals: [ops]}
"""


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        (None, {"'billing'", "'ops'", "'db', owner", "'web', owner"}),
        ([Target("db", PortClass.INTERNAL)], {"'billing'", "'db', owner"}),
        ([Target("db", PortClass.ADMIN)], {"'ops'", "'db', owner"}),
        (
            [Target("db", PortClass.ADMIN), Target("web", PortClass.PUBLIC)],
            {"'ops'", "'db', owner", "'web', owner"},
        ),
        ([Target("gone", PortClass.PUBLIC)], set()),
    ],
)
def test_only_of_these_targets(targets: list[Target] | None, named: set[str]) -> None:
    written = parse_policy(TWO)
    compiled, inside = compile_policy(written, FACTS, Ids()), replace(INSIDE, netns=1)
    found = rights_lost(written, compiled, 1, [Seen(inside, "x")], targets)
    assert {
        one.reason.split(" matches only ")[0].removeprefix("principal ").removeprefix("service ")
        for one in found
    } == named
