"""Whom `enforce` would refuse, by what is remembered of each use and by the policy as it is now."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agent import abi
from agent.daemon.enforcement.preview import Foreseen, Foresight
from agent.daemon.tracking.past_uses import PastUse
from agent.kernel.tables.rows import Use
from agent.model import (
    Container,
    Decision,
    HostFacts,
    Namespace,
    Origin,
    PortClass,
    Process,
    Protocol,
    Reason,
    Target,
    Verdict,
    to_address,
)
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import Compiled, compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import Tables

DB, WEB = Target("db", PortClass.INTERNAL), Target("web", PortClass.PUBLIC)
NOW_NS, LOADED_NS = 10_000, 8_000
BEFORE, SINCE = 7_000, 9_000
"""Last attempts before and after the policy in force was loaded."""
HOST = HostFacts(
    host_netns=1, addresses=(to_address("10.0.0.1"),), users={"billing": 1001}, groups={"sre": 2001}
)
POLICY = """
version: 1
services:
  db: {{product: p, {more}ports: [{{port: 5432, class: internal}}, {{port: 22, class: internal}}]}}
  web: {{product: p, ports: [{{port: 80, class: public}}]}}
principals:
  some: {some}
licenses:
  - id: l
    product: p
    entitlements: [{{id: use, classes: [internal, public], principals: [some]{window}}}]
{restrictions}
"""
LICENSED = Verdict(Decision.ALLOWED, Reason.LICENSED, 1, 1)
UNLICENSED = Verdict(Decision.DENIED, Reason.UNLICENSED_PRINCIPAL, 1)
UNRESOLVED = Verdict(Decision.ALLOWED, Reason.UNRESOLVED, 1)
PSQL = Process(
    pid=7, exe="/usr/bin/psql", uid=1001, gid=100, gids=(100,), cgroup_id=5, cgroup="/system.slice/b.service",
    unit="b.service", is_whole=True,
)  # fmt: skip
GONE = replace(PSQL, is_whole=False)


@dataclass
class World:
    """A policy in force, and what is remembered of its uses."""

    ids: Ids = field(default_factory=Ids)
    compiled: Compiled | None = None
    judged_since_ns: int = LOADED_NS
    rows: list[PastUse] = field(default_factory=list)
    flows: list[PastUse] = field(default_factory=list)

    def load(
        self, some: str, facts: HostFacts = HOST, more: str = "", window: str = "", restrictions: str = ""
    ) -> None:
        text = POLICY.format(some=some, more=more, window=window, restrictions=restrictions)
        self.compiled = compile_policy(parse_policy(text), facts, self.ids)

    def judged_by(self) -> tuple[Compiled, Tables] | None:
        return (self.compiled, self.compiled.tables) if self.compiled else None

    def uses(self) -> list[PastUse]:
        return self.flows

    def since(self, boot_ns: int) -> list[PastUse]:
        return self.rows

    def used(
        self,
        consumer: Process | None = PSQL,
        word: Verdict = LICENSED,
        *,
        last_ns: int = SINCE,
        attempts: int = 3,
        target: Target = DB,
        port: int = 5432,
        use_of: abi.UseOf = abi.UseOf.ONE,
        source: str = "10.9.9.7",
        destination: str = "127.0.0.1",
        netns: int = 1,
    ) -> PastUse:
        use = Use(
            key=b"", attempts=attempts, verdict=word, origin=Origin.LOOPBACK if consumer else Origin.REMOTE,
            protocol=Protocol.TCP, consumer=consumer, comm="", netns=netns, source=to_address(source),
            source_port=0, destination=to_address(destination), port=port, first_boot_ns=last_ns,
            last_boot_ns=last_ns, told=True, use_of=use_of,
        )  # fmt: skip
        self.rows.append(PastUse(use, target, consumer))
        return self.rows[-1]

    def foreseen(self, *targets: Target) -> Foreseen:
        keeper: Any = self
        flows: Any = self
        foresight = Foresight(keeper, self, flows)  # type: ignore[arg-type]
        return foresight.of(targets or (DB,), 0, NOW_NS, {22})

    @property
    def refused(self) -> dict[str, str]:
        return {row["consumer"]: row["reason"] for row in self.foreseen().refused}

    @property
    def unknown(self) -> list[str]:
        return [row["consumer"] for row in self.foreseen().unknown]


@pytest.fixture
def world() -> World:
    return World()


def test_who_was_allowed_and_has_lost_his_right_is_named(world: World) -> None:
    world.load("[{user: somebody-else}]")
    world.used(word=LICENSED, last_ns=BEFORE)
    (row,) = world.foreseen().refused
    assert (row["consumer"], row["service"], row["class"], row["reason"], row["attempts"]) == (
        "b.service",
        "db",
        "internal",
        "unlicensed_principal",
        3,
    )


def test_who_was_denied_and_is_licensed_now_is_not_named(world: World) -> None:
    world.load("[{unit: b.service, user: billing}]")
    world.used(word=UNLICENSED, last_ns=BEFORE)
    assert world.foreseen() == Foreseen()


def test_attempts_of_one_consumer_are_one_row_whatever_they_met(world: World) -> None:
    world.load("[{uid: 5}]")
    world.used(word=LICENSED, last_ns=BEFORE)
    world.used(word=UNLICENSED, last_ns=SINCE, attempts=4)
    assert [(row["attempts"], row["open"]) for row in world.foreseen().refused] == [(7, 0)]


@pytest.mark.parametrize(("some", "named"), [("[{uid: 1001}]", {}), ("[{uid: 5}]", {"b.service": 12})])
def test_who_holds_connections_and_has_made_none_lately_is_judged_too(
    world: World, some: str, named: dict[str, int]
) -> None:
    world.load(some)
    world.flows = [replace(world.used(attempts=0, last_ns=BEFORE - 10**9), open=12)]
    world.rows = []
    assert {row["consumer"]: row["open"] for row in world.foreseen().refused} == named


def test_ports_that_are_never_refused_and_other_targets_are_left_out(world: World) -> None:
    world.load("[{uid: 5}]")
    world.used(port=22)
    world.used(port=80, target=WEB)
    assert world.foreseen() == Foreseen()
    assert len(world.foreseen(DB, WEB).refused) == 1


def test_an_entitlement_that_has_ended_since_is_no_right(world: World) -> None:
    world.load("[{uid: 1001}]", window=", expires_at: 1970-01-01T00:00:00Z")
    world.used(word=LICENSED, last_ns=BEFORE)
    assert world.refused == {"b.service": "expired"}


def test_an_exclusion_made_since_counts(world: World) -> None:
    world.load("[{uid: 1001}]", restrictions="restrictions: [{exclude: some, target: db}]")
    world.used(word=LICENSED, last_ns=BEFORE)
    assert world.refused == {"b.service": "excluded"}


def test_a_port_that_is_declared_no_more_is_not_refused(world: World) -> None:
    world.load("[{uid: 5}]")
    world.used(port=5433)
    assert world.foreseen() == Foreseen()


def test_a_port_of_another_target_now_is_judged_as_that(world: World) -> None:
    world.load("[{uid: 5}]")
    world.used(port=80, target=DB)
    assert [row["service"] for row in world.foreseen(DB, WEB).refused] == ["web"]


class TestGone:
    """Processes that ended before anybody could look at them: groups, root directory and namespaces are not
    known."""

    def test_what_does_not_matter_need_not_be_known(self, world: World) -> None:
        world.load("[{unit: b.service}]")
        world.used(GONE, last_ns=BEFORE)
        world.used(replace(GONE, unit="c.service", cgroup="/system.slice/c.service"), last_ns=BEFORE)
        assert world.refused == {"c.service": "unlicensed_principal"}
        assert world.unknown == []

    @pytest.mark.parametrize("some", ["[{exe: /usr/bin/psql}]", "[{user: billing}]", "[{group: sre}]"])
    def test_what_matters_and_is_not_known_is_said(self, world: World, some: str) -> None:
        world.load(some)
        world.used(GONE, word=UNLICENSED, last_ns=BEFORE)
        assert (world.refused, world.unknown) == ({}, ["b.service"])

    def test_who_could_not_be_meant_whatever_he_was_is_refused(self, world: World) -> None:
        world.load("[{exe: /usr/bin/other, group: sre}]")
        world.used(GONE, last_ns=BEFORE)
        assert world.refused == {"b.service": "unlicensed_principal"}

    @pytest.mark.parametrize(
        ("word", "refused"),
        [(LICENSED, {}), (UNLICENSED, {"b.service": "unlicensed_principal"})],
    )
    def test_the_kernel_knew_and_its_word_by_the_same_policy_counts(
        self, world: World, word: Verdict, refused: dict[str, str]
    ) -> None:
        world.load("[{group: sre}]")
        world.used(GONE, word=word, last_ns=SINCE)
        assert (world.refused, world.unknown) == (refused, [])

    @pytest.mark.parametrize(("grant", "unknown"), [(1, ["b.service"]), (2, [])])
    def test_its_word_counts_no_longer_than_the_grant_does(
        self, world: World, grant: int, unknown: list[str]
    ) -> None:
        two = ", expires_at: 1970-01-01T00:00:00Z}, {id: two, classes: [internal], principals: [some]"
        world.load("[{group: sre}]", window=two)
        world.used(GONE, word=replace(LICENSED, grant=grant), last_ns=SINCE)
        assert (world.refused, world.unknown) == ({}, unknown)

    def test_an_exclusion_in_doubt_is_said(self, world: World) -> None:
        world.load("[{group: sre}]", restrictions="restrictions: [{exclude: some, target: db}]")
        world.used(GONE, last_ns=BEFORE)
        assert (world.refused, world.unknown) == ({}, ["b.service"])

    @pytest.mark.parametrize("unnamed", [{"exe": ""}, {"exe": "/opt/…"}, {"exe": "memfd:"}, {"cgroup": ""}])
    def test_who_has_no_name_is_not_taken_for_somebody(self, world: World, unnamed: dict[str, str]) -> None:
        world.load("[{exe: /usr/bin/psql, unit: b.service}]")
        world.used(replace(PSQL, **unnamed), last_ns=BEFORE)  # type: ignore[arg-type]
        assert (world.refused, world.unknown) == ({}, ["b.service"])


class TestUnresolved:
    def test_who_is_let_in_only_as_unresolved_is_refused(self, world: World) -> None:
        container = Container("c" * 64, "docker")
        facts = replace(HOST, cgroups={"/docker-c": 9}, containers={"/docker-c": container})
        world.load("[{container: web}]", facts)
        nginx = replace(PSQL, cgroup="/docker-c", cgroup_id=9, container=container, unit="")
        world.used(nginx, word=UNRESOLVED)
        assert world.refused == {"c" * 12: "unresolved"}
        world.load("[{container: web}]", facts, more="on_unresolved: allow, ")
        assert world.refused == {}

    def test_one_that_is_known_since_is_judged_by_that(self, world: World) -> None:
        world.load("[{exe: '/usr/bin/p?ql'}]")
        world.used(word=UNRESOLVED)
        assert world.foreseen() == Foreseen()

    @pytest.mark.parametrize(("more", "refused"), [("", 1), ("on_unresolved: allow, ", 0)])
    def test_the_kernels_doubt_stays_a_doubt(self, world: World, more: str, refused: int) -> None:
        world.load("[{group: sre}]", more=more)
        world.used(GONE, word=UNRESOLVED)
        assert len(world.refused) == refused
        assert world.unknown == []


class TestNames:
    """Of what is there no more, the tables have none."""

    def test_a_program_that_a_glob_takes(self, world: World) -> None:
        world.load("[{exe: '/opt/app-?/bin/*-worker'}]")
        world.used(replace(PSQL, exe="/opt/app-1/bin/new-worker"), word=UNLICENSED, last_ns=BEFORE)
        world.used(
            replace(PSQL, exe="/opt/app-1/bin/psql", unit="x.service", cgroup="/x.service"), last_ns=BEFORE
        )
        assert world.refused == {"x.service": "unlicensed_principal"}

    @pytest.mark.parametrize("below", ["", "/init.scope"])
    def test_a_container_that_has_ended(self, world: World, below: str) -> None:
        world.load("[{container: web}]")
        path = f"/system.slice/docker-{'c' * 64}.scope"
        for name in ("web", "other"):
            container = Container("c" * 64, "docker", name, known=True)
            world.used(replace(PSQL, cgroup=path + below, container=container, unit=""), last_ns=BEFORE)
        assert world.refused == {"other": "unlicensed_principal"}

    def test_a_unit_that_has_stopped(self, world: World) -> None:
        world.load("[{unit: 'b@*.service'}]")
        world.used(replace(PSQL, cgroup="/system.slice/system-b.slice/b@1.service", unit="b@1.service"))
        world.used(replace(PSQL, cgroup="/user.slice/c.service", unit="c.service"))
        assert world.refused == {"c.service": "unlicensed_principal"}

    def test_a_cgroup_whose_ground_is_forgotten_is_taken_for_no_unit(self, world: World) -> None:
        """It lay where a user makes cgroups, with any name he likes."""
        world.load("[{unit: b.service}]")
        world.used(replace(PSQL, cgroup="/theirs/b.service", unit=""), word=UNLICENSED, last_ns=BEFORE)
        assert (world.refused, world.unknown) == ({}, ["psql"])

    def test_a_network_namespace_that_is_gone(self, world: World) -> None:
        there = Namespace(8, 80, "/run/netns/c", (to_address("10.2.0.9"),))
        world.load("[{cidr: 10.2.0.0/16}]", replace(HOST, namespaces=(there,)))
        world.used(netns=8, destination="10.0.0.1", last_ns=BEFORE)
        world.used(
            replace(PSQL, unit="c.service", cgroup="/c.service"),
            netns=9,
            destination="10.0.0.1",
            last_ns=BEFORE,
        )
        assert (world.refused, world.unknown) == ({}, ["c.service"])


class TestManyInOneRow:
    def test_a_network_is_judged_by_the_address_that_came(self, world: World) -> None:
        world.load("[{cidr: 10.9.0.0/16}]")
        world.used(None, destination="10.0.0.1", last_ns=BEFORE)
        world.used(None, destination="10.0.0.1", source="10.8.0.1", last_ns=BEFORE)
        assert world.refused == {"10.8.0.0/24": "unlicensed_principal"}

    @pytest.mark.parametrize(("attempts", "unknown"), [(1, []), (3, ["10.9.9.0/24"])])
    def test_in_a_network_that_the_policy_divides_others_are_not_known(
        self, world: World, attempts: int, unknown: list[str]
    ) -> None:
        world.load("[{cidr: 10.9.9.7/32}]")
        world.used(None, destination="10.0.0.1", last_ns=BEFORE, attempts=attempts)
        assert (world.refused, world.unknown) == ({}, unknown)

    @pytest.mark.parametrize("use_of", [abi.UseOf.MANY, abi.UseOf.OTHERS])
    def test_of_a_crowd_only_the_kernels_word_is_known(self, world: World, use_of: abi.UseOf) -> None:
        world.load("[{unit: b.service}]")
        world.used(word=UNLICENSED, use_of=use_of, last_ns=BEFORE)
        assert (len(world.refused), len(world.unknown)) == (0, 1)
        world.rows.clear()
        world.used(word=UNLICENSED, use_of=use_of, last_ns=SINCE)
        assert (len(world.refused), len(world.unknown)) == (1, 0)


def test_without_a_policy_nothing_is_refused(world: World) -> None:
    world.used()
    assert world.foreseen() == Foreseen()
