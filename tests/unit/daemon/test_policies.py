from __future__ import annotations

import dataclasses
import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import Paths, Settings
from agent.daemon.policies import PolicyKeeper
from agent.daemon.state import State
from agent.errors import KernelError, PolicyErrors
from agent.model import Container, HostFacts, Namespace, PortClass, Target, to_address
from agent.policy.hashing import path_hash, string_hash
from agent.policy.ids import Ids
from agent.policy.tables import MEMBER_UNSURE, Dimension, Tables
from agent.policy.values import Policy
from tests.unit.daemon.worlds import DB, HERE, SEED

GOOD = """
version: 1
services: {db: {product: acme, ports: [{port: 5432, class: internal}]}}
principals: {billing: [{exe: /opt/billing/bin/*}, {unit: billing.service}, {cidr: 10.2.0.0/16}]}
licenses:
  - {id: acme-1, product: acme, entitlements: [{id: app, classes: [internal], principals: [billing]}]}
"""
BAD = "version: 1\nservices: {db: {product: acme, ports: [{port: 70000, class: internal}]}}\n"
FACTS = HostFacts(host_netns=1, addresses=(HERE,), hash_seed=SEED)


class KernelTables:
    """The policy side of the maps, as the keeper sees it."""

    def __init__(self) -> None:
        self.installed: list[Tables] = []
        self.members: list[tuple[Dimension, int, int, int]] = []
        self.full = False

    @property
    def generation(self) -> int:
        return len(self.installed)

    def install(self, tables: Tables) -> int:
        if self.full:
            raise OSError(errno.E2BIG, "fill members: Argument list too long")
        self.installed.append(tables)
        return self.generation

    def add_member(
        self, dimension: Dimension, value: int, clauses: int, free_set_id: int, flags: int = 0
    ) -> None:
        if self.full:
            raise OSError(errno.E2BIG, "update members")
        self.members.append((dimension, value, clauses, free_set_id | flags))

    def remove_member(self, dimension: Dimension, value: int) -> None:
        self.members = [each for each in self.members if each[:2] != (dimension, value)]


class World:
    def __init__(self, folder: Path) -> None:
        paths = Paths(policy=folder / "policy.yaml", policy_dir=folder / "policy.d", state=folder / "state")
        self.policy = paths.policy
        self.settings = Settings(paths=paths)
        self.kernel = KernelTables()
        self.facts = FACTS
        self.containers: dict[str, Container] = {}
        self.keeper = self.daemon()

    def daemon(self) -> PolicyKeeper:
        gather: Callable[[Policy | None], HostFacts] = lambda policy: self.facts  # noqa: E731
        state = State(self.settings.paths.state)
        container_at: Callable[[str], Container | None] = lambda path: self.containers.get(path)  # noqa: E731
        return PolicyKeeper(self.settings, self.kernel, state, gather, container_at)  # type: ignore[arg-type]

    def load(self, text: str) -> None:
        self.policy.write_text(text)
        self.keeper.reload()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_no_policy_at_all_puts_empty_tables_in_force(world: World) -> None:
    world.keeper.reload()
    assert world.keeper.policy is None
    assert world.keeper.generation == 1
    assert world.kernel.installed[0].targets == {}


def test_a_policy_is_in_force_once_it_is_loaded(world: World) -> None:
    world.load(GOOD)
    assert world.kernel.installed[-1].ports == {5432}
    assert (world.keeper.generation, world.keeper.failures, world.keeper.last_error) == (1, 0, "")
    world.keeper.note_in_force()
    assert world.keeper.loaded_unix_s > 0


@pytest.mark.parametrize("bad", [BAD, "version: [", "version: 2"])
def test_a_bad_file_leaves_the_old_policy_in_force_and_says_so(world: World, bad: str) -> None:
    world.load(GOOD)
    before = (world.keeper.policy, world.keeper.generation, world.keeper.loaded_unix_s)
    with pytest.raises(PolicyErrors):
        world.load(bad)
    assert (world.keeper.policy, world.keeper.generation, world.keeper.loaded_unix_s) == before
    assert len(world.kernel.installed) == 1
    assert world.keeper.failures == 1
    assert "policy.yaml" in world.keeper.last_error


def test_a_vanished_policy_leaves_the_old_one_in_force(world: World) -> None:
    world.load(GOOD)
    world.policy.unlink()
    with pytest.raises(PolicyErrors, match=r"the policy is gone.*version: 1"):
        world.keeper.reload()
    assert world.keeper.policy is not None
    assert len(world.kernel.installed) == 1


def test_a_policy_of_nothing_is_how_to_run_without_one(world: World) -> None:
    world.load(GOOD)
    world.load("version: 1")
    assert world.kernel.installed[-1].targets == {}


def test_a_good_file_after_a_bad_one_clears_the_error_and_keeps_the_count(world: World) -> None:
    with pytest.raises(PolicyErrors):
        world.load(BAD)
    world.load(GOOD)
    assert (world.keeper.failures, world.keeper.last_error) == (1, "")


def test_tables_the_kernel_has_no_room_for_are_an_error_and_change_nothing(world: World) -> None:
    world.load(GOOD)
    policy = world.keeper.policy
    world.kernel.full = True
    with pytest.raises(KernelError, match="does not fit"):
        world.load(GOOD.replace("5432", "5433"))
    assert world.keeper.policy is policy
    assert world.keeper.failures == 1


def test_numbers_of_targets_are_stored_before_the_kernel_counts_by_them(world: World) -> None:
    stored: list[Ids] = []
    install = world.kernel.install

    class Watched(KernelTables):
        def install(self, tables: Tables) -> int:
            stored.append(State(world.settings.paths.state).ids())
            return install(tables)

    world.kernel = Watched()
    world.keeper = world.daemon()
    world.load(GOOD)
    assert DB in stored[0].targets.values()


def test_a_target_keeps_its_number_across_restarts_and_policies(world: World) -> None:
    world.load(GOOD)
    number = world.keeper.ids.target(DB)
    world.keeper = world.daemon()
    world.load(GOOD.replace("db:", "cache:"))
    assert world.keeper.ids.target_named(number) == DB
    assert world.keeper.ids.target(Target("cache", PortClass.INTERNAL)) != number


def test_a_host_that_stays_the_same_is_not_compiled_again(world: World) -> None:
    world.load(GOOD)
    world.facts = dataclasses.replace(FACTS, executables=frozenset({"/bin/new"}), cgroups={"/new": 5})
    assert not world.keeper.follow_host()
    assert len(world.kernel.installed) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": (to_address("10.0.0.9"),)},
        {"users": {"billing": 5}},
        {"groups": {"sre": 5}},
        {"realpaths": {"/opt/billing": "/srv/billing"}},
        {"clock_synced": False},
        {"boot_offset_ns": 600_000_000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_host_that_changed_in_what_the_policy_speaks_of_is_compiled_for(
    world: World, change: dict[str, object]
) -> None:
    world.load(GOOD)
    world.facts = dataclasses.replace(FACTS, **change)  # type: ignore[arg-type]
    assert world.keeper.follow_host()
    assert len(world.kernel.installed) == 2
    assert not world.keeper.follow_host()


def test_a_clock_that_drifts_a_little_is_followed_by_nobody(world: World) -> None:
    world.load(GOOD)
    world.facts = dataclasses.replace(FACTS, boot_offset_ns=400_000_000)
    assert not world.keeper.follow_host()


def test_many_small_drifts_add_up_to_a_change(world: World) -> None:
    world.load(GOOD)
    changed = []
    for step in range(1, 4):
        world.facts = dataclasses.replace(FACTS, boot_offset_ns=step * 200_000_000)
        changed.append(world.keeper.follow_host())
    assert any(changed)


def test_an_executable_that_a_glob_takes_joins_when_its_name_comes(world: World) -> None:
    world.load(GOOD)
    world.keeper.executable_known("/opt/billing/bin/invoice")
    world.keeper.executable_known("/usr/bin/curl")
    (dimension, value, clauses, first_set), (_, _, none, second_set) = world.kernel.members
    assert (dimension, value) == (Dimension.EXE, path_hash("/opt/billing/bin/invoice", SEED))
    assert clauses & ~none, "the glob's clause"
    assert first_set != second_set
    assert min(first_set, second_set) >= len(world.kernel.installed[-1].sets)


def test_a_name_that_comes_while_the_host_is_read_is_in_what_is_compiled_from_it(world: World) -> None:
    def read_host(policy: Policy | None) -> HostFacts:
        keeper.executable_known("/opt/billing/bin/invoice")
        return FACTS

    state = State(world.settings.paths.state)
    keeper = PolicyKeeper(world.settings, world.kernel, state, read_host)  # type: ignore[arg-type]
    world.policy.write_text(GOOD)
    keeper.reload()
    assert [(dimension, value) for dimension, value, *_ in world.kernel.members] == [
        (Dimension.EXE, path_hash("/opt/billing/bin/invoice", SEED))
    ]


def test_a_name_that_comes_while_tables_are_swapped_takes_a_set_that_is_free_in_the_new_ones(
    world: World,
) -> None:
    class Swapping(KernelTables):
        def install(self, tables: Tables) -> int:
            generation = super().install(tables)
            if generation == 2:
                arriving.start()
                arriving.join(0.2)  # it must wait for this to end
            return generation

    world.kernel = Swapping()
    world.keeper = world.daemon()
    arriving = threading.Thread(target=world.keeper.executable_known, args=["/opt/billing/bin/invoice"])
    world.load(GOOD)
    more = "".join(f", {{cidr: 10.{number}.0.0/16}}" for number in range(3, 40))
    world.load(GOOD.replace("{cidr: 10.2.0.0/16}", "{cidr: 10.2.0.0/16}" + more))
    arriving.join(5)
    ((*_, set_id),) = world.kernel.members
    assert set_id >= len(world.kernel.installed[-1].sets)


def test_names_with_one_meaning_share_a_set(world: World) -> None:
    world.load(GOOD)
    for name in ("a", "b", "c"):
        world.keeper.executable_known(f"/opt/billing/bin/{name}")
    assert len({set_id for *_, set_id in world.kernel.members}) == 1


def test_a_restarted_units_cgroup_joins_and_a_strangers_does_not(world: World) -> None:
    world.load(GOOD)
    world.keeper.cgroup_made(69, "/elsewhere.slice/other.service")
    assert world.kernel.members == []
    world.keeper.cgroup_made(70, "/elsewhere.slice/billing.service")
    assert (Dimension.CGROUP, 70) in {(dimension, value) for dimension, value, *_ in world.kernel.members}


def test_a_namespace_that_appears_or_gets_another_address_joins(world: World) -> None:
    world.load(GOOD)
    for addresses in ((), (to_address("10.2.0.7"),), (to_address("10.2.0.7"),)):
        namespace = Namespace(cookie=8, inode=9, path="/run/netns/x", addresses=addresses)
        world.facts = dataclasses.replace(FACTS, namespaces=(namespace,))
        assert not world.keeper.follow_host()
    first, second = world.kernel.members
    assert (first[:2], second[:2]) == ((Dimension.NETNS, 8), (Dimension.NETNS, 8))
    assert first[2] != second[2]


def test_what_the_kernel_judges_by_includes_the_names_that_came_later(world: World) -> None:
    assert world.keeper.tables is None
    world.load(GOOD)
    world.keeper.executable_known("/opt/billing/bin/invoice")
    ((dimension, value, clauses, set_id),) = world.kernel.members
    tables = world.keeper.tables
    assert tables is not None
    assert tables.members[dimension, value] == set_id
    assert tables.sets[set_id] == clauses


def test_without_a_policy_names_are_not_kept(world: World) -> None:
    world.keeper.reload()
    world.keeper.executable_known("/usr/bin/curl")
    world.keeper.cgroup_made(70, "/x")
    assert world.kernel.members == []


def test_no_room_for_another_name_is_a_warning_and_not_the_end(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.load(GOOD)
    world.kernel.full = True
    world.keeper.executable_known("/opt/billing/bin/invoice")
    assert "no room for another name" in caplog.text


WEB = """
version: 1
services:
  db: {product: acme, ports: [{port: 5432, class: internal}]}
  own: {product: acme, at: {container: db}, ports: [{port: 80, class: internal}]}
principals: {web: [{container: web-*}]}
licenses: [{id: l, product: acme, entitlements: [{id: e, principals: [web]}]}]
"""
PATH = "/docker/" + "a" * 64


def in_force(world: World, number: int, path: str) -> tuple[int, int] | None:
    """(members[CGROUP, number] of the kernel, what user space takes the path for), by the set's clauses."""
    tables = world.keeper.tables
    assert tables
    kernel = [each for each in world.kernel.members if each[:2] == (Dimension.CGROUP, number)]
    place = tables.members.get((Dimension.CGROUP_PATH, string_hash(path, SEED)))
    if not kernel:
        assert place is None
        return None
    assert place == kernel[-1][3]
    return kernel[-1][2], kernel[-1][3] & MEMBER_UNSURE


def test_a_container_is_unsure_until_it_has_a_name(world: World) -> None:
    named = Container("a" * 64, "docker", "web-1", known=True)
    of_path = {PATH: Container("a" * 64, "docker")}
    world.containers = of_path
    world.load(WEB)
    world.keeper.cgroup_made(7, PATH)
    assert in_force(world, 7, PATH) == (0b11, MEMBER_UNSURE)
    assert world.keeper.unnamed
    of_path[PATH] = named
    world.keeper.name_containers()
    assert in_force(world, 7, PATH) == (0b11, 0)
    assert not world.keeper.unnamed
    of_path[PATH] = dataclasses.replace(named, name="cache")
    world.keeper.cgroup_made(8, PATH)
    assert in_force(world, 8, PATH) is None
    world.keeper.cgroups_gone([7], [PATH])
    assert in_force(world, 7, PATH) is None


def test_a_cgroup_that_is_no_container_leaves_nothing_behind(world: World) -> None:
    world.load(WEB)
    world.keeper.cgroup_made(7, "/system.slice/nginx.service")
    assert in_force(world, 7, "/system.slice/nginx.service") is None


def test_a_service_follows_its_container(world: World) -> None:
    world.load(WEB)
    db = Container("b" * 64, "docker", "db", known=True)
    world.containers = {PATH: db}
    world.keeper.cgroup_made(7, PATH)
    assert world.keeper.awaits_home(10)
    there = Namespace(cookie=9, inode=2, path="/run/netns/c", addresses=(to_address("10.1.0.2"),))
    namespaces = dataclasses.replace(world.facts, namespaces=(there,))
    world.facts = dataclasses.replace(namespaces, containers={PATH: db}, container_netns={PATH: 9})
    assert world.keeper.follow_host()
    assert not world.keeper.awaits_home(10)
    keys = {(key.netns, str(key.network)) for key in world.kernel.installed[-1].targets if key.port == 80}
    assert {(9, "::1/128"), (0, "::ffff:a01:2/128")} <= keys
    world.facts = namespaces
    assert world.keeper.follow_host()
    assert not [key for key in world.kernel.installed[-1].targets if key.port == 80]
