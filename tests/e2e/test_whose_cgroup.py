"""Whose a cgroup is: a unit's of this host, a container's, or of somebody who was given a part of the tree.
Each way is tried by who could go it, where what is unresolved would be let in; each right is asked for at the
first connect, where it would not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fixtures import cgroups, processes
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since, told
from tests.fixtures.waiting import wait_for

LENIENT, STRICT, ATTACKER = 7521, 7522, 1002
POLICY = f"""\
version: 1
services:
  lenient: {{product: acme, on_unresolved: allow, ports: [{{port: {LENIENT}, class: internal}}]}}
  strict: {{product: acme, on_unresolved: deny, ports: [{{port: {STRICT}, class: internal}}]}}
principals:
  billing: [{{unit: billing.service}}, {{unit: web@*.service}}, {{unit: batch.slice}}]
  lxc: [{{container: db-*}}]
licenses:
  - id: acme
    product: acme
    entitlements: [{{id: use, principals: [billing]}}, {{id: db, services: [strict], principals: [lxc]}}]
enforcement: {{default: enforce}}
"""
ENTERS_AND_CONNECTS = """
import errno, os, socket, sys
os.makedirs(sys.argv[1])
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write("0")
made = socket.socket()
print(errno.errorcode.get(made.connect_ex(("127.0.0.1", int(sys.argv[2]))), ""), flush=True)
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    lab = shared_lab
    servers = [lab.serve(lab.host, "127.0.0.1", port) for port in (LENIENT, STRICT)]
    state = {name: str(lab.directory / "state" / name) for name in ("crun", "runc", "docker", "containerd")}
    with lab.agent(POLICY, {"containers": state | {"storage": [], "cri": "never"}}) as running:
        yield running
    for server in servers:
        processes.end(server)


@pytest.fixture
def given(shared_lab: Lab, agent: RunningAgent) -> Iterator[str]:
    """A cgroup that belongs to the attacker, as `Delegate=` and `User=` give it."""
    path = shared_lab.cgroup("given")
    for name in ("", "cgroup.procs", "cgroup.subtree_control"):
        os.chown(cgroups.directory(path) / name, ATTACKER, ATTACKER)
    yield path
    cgroups.remove(path)


def error(lab: Lab, port: int, cgroup: str) -> str:
    """Of one connect() in that cgroup; "" if it got through."""
    return next(iter(lab.load(lab.host, "127.0.0.1", port, cgroup=cgroup)["errors"]), "")


@pytest.mark.parametrize(
    "name",
    [
        "billing.service",
        "a.slice/web@1.service",
        "batch.slice",
        "/".join("x" * 13),
        "x/" * 11 + "billing.service",
    ],
)
def test_a_name_in_a_tree_of_ones_own_gives_no_right_and_no_doubt(
    shared_lab: Lab, agent: RunningAgent, given: str, name: str
) -> None:
    lab, before = shared_lab, connections(agent, "lenient")
    argv = [
        processes.PYTHON,
        "-Ic",
        ENTERS_AND_CONNECTS,
        str(cgroups.directory(f"{given}/{name}")),
        str(LENIENT),
    ]
    assert lab.call(lab.host, argv, cgroup="given", uid=ATTACKER, gid=ATTACKER).stdout.strip() == "EPERM"
    assert since(before, agent, "lenient") == {("loopback", "denied"): 1}
    event = told(agent, {"type": "violation", "consumer.cgroup": f"{given}/{name}"})
    assert event["reason"] == "unlicensed_principal"
    assert event["consumer"].get("unit", "") == ""


def test_a_forged_unit_is_explained_as_it_is_judged(shared_lab: Lab, agent: RunningAgent, given: str) -> None:
    lab, expected = shared_lab, {"given/billing.service": 3, "fine.slice/billing.service": 0}
    for name, code in expected.items():
        waiting = lab.run(lab.host, ["sleep", "60"], cgroup=name, uid=ATTACKER)
        said = agent.licet("explain", "--target", "strict", "--pid", str(waiting.pid), check=False)
        assert said.returncode == code, said.stdout
        processes.end(waiting)


def test_a_name_in_a_tree_that_was_taken_back_gives_no_right_after_a_restart(
    shared_lab: Lab, agent: RunningAgent, given: str
) -> None:
    """What exists when the agent starts is judged by who made it, as far as it still shows."""
    forged = ("billing.service", "a.slice/web@1.service", "lxc.payload.db-1")
    for name in forged:
        made = str(cgroups.directory(f"{given}/{name}"))
        shared_lab.call(shared_lab.host, ["mkdir", "-p", made], cgroup="given", uid=ATTACKER, gid=ATTACKER)
    cgroups.make(f"{given}-before/billing.service")
    os.chown(cgroups.directory(f"{given}-before/billing.service"), ATTACKER, ATTACKER)
    for name in ("", "cgroup.procs", "cgroup.subtree_control"):
        os.chown(cgroups.directory(given) / name, 0, 0)
    try:
        for _ in range(2):
            for name in forged:
                assert error(shared_lab, STRICT, f"given/{name}") == "EPERM", name
            assert error(shared_lab, STRICT, "given-before/billing.service") == "", "root made it"
            agent.restart()
    finally:
        cgroups.remove(f"{given}-before")


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("lxc.payload.x/system.slice/billing.service", "x"),
        ("lxc/101/ns/system.slice/billing.service", "101"),
        ("lxc/101/ns/system.slice/web@1.service", "101"),
        ("garden/a1/billing.service", "a1"),
        ("machine-y.scope/payload/billing.service", "y"),
    ],
)
def test_a_unit_in_a_container_with_an_init_is_the_containers(
    shared_lab: Lab, agent: RunningAgent, name: str, container: str
) -> None:
    assert error(shared_lab, LENIENT, name) == "EPERM"
    event = told(agent, {"type": "violation", "consumer.cgroup": f"{shared_lab.scope}/{name}"})
    assert event["reason"] == "unlicensed_principal"
    assert event["consumer"]["container"] == container
    assert event["consumer"].get("unit", "") in ("", name.partition("/")[0])


def test_a_bare_container_has_no_units_and_no_containers_of_others(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    (shared_lab.directory / "state/crun/bare").mkdir(parents=True)
    for name in ("bare/billing.service", "bare/system.slice/web@7.service", f"bare/docker-{'a' * 64}.scope"):
        assert error(shared_lab, STRICT, name) == "EPERM"
        told(agent, {"type": "violation", "consumer.cgroup": f"{shared_lab.scope}/{name}"})
    event = told(agent, {"consumer.cgroup": f"{shared_lab.scope}/bare/docker-{'a' * 64}.scope"})
    assert event["consumer"]["container"] == "bare"


def test_a_unit_is_licensed_at_its_first_connect_wherever_it_starts(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    for attempt in range(10):
        for name in (
            f"odd{attempt}.slice/billing.service",
            f"web@{attempt}.service",
            f"odd.slice/web@{attempt}.service",
        ):
            assert error(shared_lab, STRICT, name) == "", name
            cgroups.remove(f"{shared_lab.scope}/{name}")


def test_a_container_of_lxc_is_licensed_by_its_name(shared_lab: Lab, agent: RunningAgent) -> None:
    shared_lab.cgroup("lxc.payload.db-1/system.slice/postgresql.service")
    told_of = {"type": "use", "service": "strict", "consumer.container": "db-1"}

    def licensed() -> bool:
        return error(shared_lab, STRICT, "lxc.payload.db-1/system.slice/postgresql.service") == ""

    wait_for(licensed, "its name has been read")
    assert told(agent, told_of)["consumer"]["runtime"] == "lxc"
    assert error(shared_lab, STRICT, "lxc.payload.web/init.scope") == "EPERM"
