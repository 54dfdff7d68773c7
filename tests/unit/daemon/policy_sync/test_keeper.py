from __future__ import annotations

import dataclasses
import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import Paths, Settings
from agent.daemon.licensing.keeper import LicenseKeeper
from agent.daemon.licensing.time import LicenseTime
from agent.daemon.policy_sync.generation import Sources
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.wiring.licensing import license_keeper
from agent.errors import KernelError, PolicyErrors
from agent.model import Container, HostFacts, Namespace, PortClass, Target, to_address, to_network
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import (
    MEMBER_CONTAINER,
    MEMBER_FLAGS,
    MEMBER_UNSURE,
    Dimension,
    Tables,
)
from agent.policy.terms.hashing import path_hash, string_hash
from agent.policy.values import Policy
from agent.state_files import State
from tests.fixtures.vendor import give_host_key
from tests.unit.daemon.worlds import DB, HERE, SEED

GOOD = """
version: 1
services: {db: {product: acme, ports: [{port: 5432, class: internal}]}}
principals: {billing: [{exe: /opt/billing/bin/**}, {unit: billing.service}, {cidr: 10.2.0.0/16}]}
licenses:
  - {id: acme-1, product: acme, entitlements: [{id: app, classes: [internal], principals: [billing]}]}
"""
BAD = "version: 1\nservices: {db: {product: acme, ports: [{port: 70000, class: internal}]}}\n"
FACTS = HostFacts(host_netns=1, addresses=(HERE,), hash_seed=SEED)


class KernelTables:
    """The policy side of the maps, as the keeper sees it."""

    def __init__(self) -> None:
        self.installed: list[Tables] = []
        self.in_force: Prepared | None = None
        self.full = False

    @property
    def generation(self) -> int:
        return len(self.installed)

    @property
    def members(self) -> list[tuple[Dimension, int, int, int]]:
        """Those that were added to the tables in force."""
        return self.in_force.members.added if self.in_force else []

    def prepare(self, tables: Tables) -> Prepared:
        if self.full:
            raise OSError(errno.E2BIG, "fill members: Argument list too long")
        return Prepared(tables, KernelMembers(self))

    def put_in_force(self, prepared: Prepared) -> int:
        self.installed.append(prepared.tables)
        self.in_force = prepared
        return self.generation


@dataclasses.dataclass
class KernelMembers:
    """Of one generation."""

    kernel: KernelTables
    added: list[tuple[Dimension, int, int, int]] = dataclasses.field(default_factory=list)
    closed: bool = False

    def add(self, dimension: Dimension, value: int, clauses: int, free_set_id: int, flags: int = 0) -> None:
        assert not self.closed
        if self.kernel.full:
            raise OSError(errno.E2BIG, "update members")
        self.added.append((dimension, value, clauses, free_set_id | flags))

    def remove(self, dimension: Dimension, value: int) -> None:
        assert not self.closed
        self.added = [each for each in self.added if each[:2] != (dimension, value)]

    def close(self) -> None:
        self.closed = True


@dataclasses.dataclass
class Prepared:
    tables: Tables
    members: KernelMembers


@dataclasses.dataclass
class HostOf:
    """A host as a test has it."""

    facts: Callable[[Policy | None], HostFacts]


@dataclasses.dataclass
class Registry:
    """Containers by the path of their cgroup, as a world has them now."""

    world: World

    def at(self, path: str) -> Container | None:
        return self.world.containers.get(path)


@dataclasses.dataclass
class ForgottenNames:
    names: list[int]

    def forget(self, exe: int) -> None:
        self.names.append(exe)


class World:
    def __init__(self, folder: Path) -> None:
        paths = Paths(
            policy=folder / "policy.yaml",
            policy_dir=folder / "policy.d",
            licenses=folder / "licenses",
            keys=folder / "keys",
            state=folder / "state",
        )
        give_host_key(paths.state)
        self.policy = paths.policy
        self.settings = Settings(paths=paths)
        self.kernel = KernelTables()
        self.facts = FACTS
        self.containers: dict[str, Container] = {}
        self.keeper = self.daemon()

    def daemon(self) -> PolicyKeeper:
        state, host = State(self.settings.paths.state), HostOf(lambda policy: self.facts)
        sources = Sources(Registry(self))  # type: ignore[arg-type]
        return PolicyKeeper(self.settings, self.kernel, state, host, self.documents(), sources)  # type: ignore[arg-type]

    def documents(self) -> LicenseKeeper:
        return license_keeper(self.settings, LicenseTime(self.settings.paths.state))

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
    assert set(world.kernel.installed[-1].ports) == {5432}
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


def test_a_main_file_that_vanishes_beside_policy_d_leaves_the_old_one_in_force(world: World) -> None:
    folder = world.settings.paths.policy_dir
    folder.mkdir()
    (folder / "more.yml").write_text("version: 1\nprincipals: {more: [{uid: 7}]}\n")
    world.load(GOOD)
    world.policy.unlink()
    with pytest.raises(PolicyErrors, match="the main file of the policy is gone"):
        world.keeper.reload()
    (folder / "more.yml").unlink()
    world.load(GOOD)
    assert world.keeper.last_error == ""


def test_a_policy_d_that_vanishes_with_a_part_of_the_policy_leaves_the_old_one_in_force(world: World) -> None:
    folder = world.settings.paths.policy_dir
    folder.mkdir()
    (folder / "more.yaml").write_text("version: 1\nprincipals: {more: [{uid: 7}]}\n")
    world.load(GOOD)
    (folder / "more.yaml").unlink()
    folder.rmdir()
    with pytest.raises(PolicyErrors, match=r"policy\.d: the folder is another one or gone, and .*more\.yaml"):
        world.keeper.reload()
    assert world.keeper.policy is not None
    assert "more" in world.keeper.policy.principals


@pytest.mark.parametrize("place", ["policy", "policy_dir"])
def test_a_link_into_what_is_not_there_is_no_absence(world: World, place: str) -> None:
    getattr(world.settings.paths, place).symlink_to("/nonexistent/mount/policy")
    with pytest.raises(PolicyErrors, match="cannot be read: No such file or directory"):
        world.keeper.reload()
    assert world.kernel.installed == []


def test_a_link_that_leads_nowhere_any_more_leaves_the_old_policy_in_force(world: World) -> None:
    elsewhere = world.policy.parent / "mount"
    elsewhere.mkdir()
    (elsewhere / "policy.yaml").write_text(GOOD)
    world.policy.symlink_to(elsewhere / "policy.yaml")
    world.keeper.reload()
    (elsewhere / "policy.yaml").unlink()
    with pytest.raises(PolicyErrors, match="cannot be read"):
        world.keeper.reload()
    assert world.keeper.policy is not None


@pytest.mark.parametrize("level", ["file", "folder", "policy.d"])
def test_what_others_can_write_is_refused_and_the_old_policy_stays(world: World, level: str) -> None:
    world.load(GOOD)
    folder = world.settings.paths.policy_dir
    folder.mkdir()
    place = {"file": world.policy, "folder": world.policy.parent, "policy.d": folder}[level]
    mode = place.stat().st_mode & 0o7777
    place.chmod(0o777)
    with pytest.raises(PolicyErrors, match="everybody may write to it"):
        world.keeper.reload()
    assert world.keeper.policy is not None
    place.chmod(mode)
    world.keeper.reload()
    assert world.keeper.last_error == ""


def test_what_a_group_can_write_is_a_warning(world: World) -> None:
    world.policy.write_text(GOOD)
    world.policy.chmod(0o664)
    world.keeper.reload()
    assert world.keeper.compiled is not None
    assert any("may write to it" in str(each) for each in world.keeper.compiled.warnings)


def test_a_warning_about_the_host_ends_once_the_host_has_what_was_missing(world: World) -> None:
    cgroups = {"/system.slice/other.service": 7}
    world.facts = dataclasses.replace(FACTS, cgroups=cgroups)
    world.load(GOOD)
    said = "unit 'billing.service' is not running on this host"
    assert sum(said in str(each) for each in world.keeper.warnings) == 1
    world.facts = dataclasses.replace(FACTS, cgroups=cgroups | {"/system.slice/billing.service": 8})
    assert world.keeper.follow_host() is False, "nothing is compiled for it"
    assert not any(said in str(each) for each in world.keeper.warnings)


def test_a_broken_policy_at_start_leaves_the_last_good_one_in_force(world: World) -> None:
    world.load(GOOD)
    world.policy.write_text(BAD)
    world.keeper = world.daemon()
    world.keeper.start()
    assert world.keeper.policy is not None
    assert str(world.keeper.policy.services["db"].place) == f"{world.policy}:3"
    assert world.keeper.is_last_good
    assert "70000" in world.keeper.last_error
    assert "70000" in world.keeper.problem
    assert world.keeper.failures == 1
    world.load(GOOD)
    assert (world.keeper.is_last_good, world.keeper.problem) == (False, "")


def test_a_policy_that_is_gone_at_start_leaves_the_last_good_one_in_force(world: World) -> None:
    world.load(GOOD)
    world.policy.unlink()
    world.keeper = world.daemon()
    world.keeper.start()
    assert world.keeper.policy is not None
    assert "the policy is gone" in world.keeper.last_error


def test_without_a_last_good_policy_a_broken_one_is_an_error_at_start(world: World) -> None:
    world.policy.write_text(BAD)
    with pytest.raises(PolicyErrors, match="70000"):
        world.keeper.start()
    assert world.kernel.installed == []


def test_a_refused_policy_is_never_the_last_good_one(world: World) -> None:
    world.load(GOOD)
    world.kernel.full = True
    with pytest.raises(KernelError):
        world.load(GOOD.replace("5432", "5433"))
    world.kernel.full = False
    world.policy.write_text(BAD)
    world.keeper = world.daemon()
    world.keeper.start()
    assert set(world.kernel.installed[-1].ports) == {5432}


def test_a_state_directory_that_cannot_be_written_stops_neither_reload_nor_host(world: World) -> None:
    world.load(GOOD)
    for name in ("ids.json", "policy.json"):
        path = world.settings.paths.state / name
        path.unlink()
        path.mkdir()  # so that it can't be written, by root either
    world.load(GOOD.replace("db:", "cache:"))
    assert [str(target) for target in world.keeper.policy.targets] == ["cache/internal"]  # type: ignore[union-attr]
    world.facts = dataclasses.replace(FACTS, addresses=(to_address("10.0.0.9"),))
    assert world.keeper.follow_host()


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

    class Watched(KernelTables):
        def put_in_force(self, prepared: Prepared) -> int:
            stored.append(State(world.settings.paths.state).ids())
            return super().put_in_force(prepared)

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
        {"members": {5: frozenset({6})}},
        {"subordinates": {6: (range(9),)}},
        {"realpaths": {"/opt/billing": "/srv/billing"}},
        {"clock_synced": False},
        {"boot_offset_ns": 600_000_000},
        {"wall_offset_ns": 600_000_000},
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
    for change in ({"boot_offset_ns": 400_000_000}, {"wall_offset_ns": 400_000_000}):
        world.facts = dataclasses.replace(FACTS, **change)
        assert not world.keeper.follow_host()


def test_a_wall_clock_behind_license_time_moves_no_deadline(world: World) -> None:
    world.load(GOOD)
    world.facts = dataclasses.replace(FACTS, wall_offset_ns=-(10**18))
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
    keeper = PolicyKeeper(world.settings, world.kernel, state, HostOf(read_host), world.documents())  # type: ignore[arg-type]
    world.policy.write_text(GOOD)
    keeper.reload()
    ((dimension, value, *_),) = world.kernel.members
    assert (dimension, value) == (Dimension.EXE, path_hash("/opt/billing/bin/invoice", SEED))


def test_what_came_while_the_host_was_read_is_there_before_its_tables_are_in_force(world: World) -> None:
    known: list[int] = []

    class Watched(KernelTables):
        def put_in_force(self, prepared: Prepared) -> int:
            known.append(len(prepared.members.added))
            return super().put_in_force(prepared)

    def read_host(policy: Policy | None) -> HostFacts:
        keeper.executable_known("/opt/billing/bin/invoice")
        return FACTS

    state = State(world.settings.paths.state)
    keeper = PolicyKeeper(world.settings, Watched(), state, HostOf(read_host), world.documents())  # type: ignore[arg-type]
    world.policy.write_text(GOOD)
    keeper.reload()
    assert known == [1]


def test_a_name_that_comes_while_tables_are_filled_is_in_both_generations_at_once(world: World) -> None:
    """It must not wait: filling takes tenths of a second, a program that has just started does not."""
    while_filling: list[int] = []

    class Filling(KernelTables):
        def prepare(self, tables: Tables) -> Prepared:
            if self.in_force is not None:
                arriving = threading.Thread(
                    target=world.keeper.executable_known, args=["/opt/billing/bin/invoice"]
                )
                arriving.start()
                arriving.join(10)
                while_filling.append(len(self.in_force.members.added))
            return super().prepare(tables)

    world.kernel = Filling()
    world.keeper = world.daemon()
    world.load(GOOD)
    more = "".join(f", {{cidr: 10.{number}.0.0/16}}" for number in range(3, 40))
    world.load(GOOD.replace("{cidr: 10.2.0.0/16}", "{cidr: 10.2.0.0/16}" + more))
    assert while_filling == [1]
    ((*_, set_id),) = world.kernel.members
    assert set_id >= len(world.kernel.installed[-1].sets)


def test_names_are_remembered_only_while_the_host_is_read(world: World) -> None:
    world.load(GOOD)
    for number in range(100):
        world.keeper.executable_known(f"/tmp/{number}")
    assert world.keeper._since_gathering is None
    world.kernel.full = True
    with pytest.raises(KernelError):
        world.keeper.reload()
    assert world.keeper._since_gathering is None


def test_the_members_of_a_generation_are_let_go_of_with_it(world: World) -> None:
    world.load(GOOD)
    first = world.kernel.in_force
    assert first
    world.load(GOOD)
    assert first.members.closed


def test_a_host_that_cannot_be_looked_at_is_a_reload_that_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load(GOOD)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/proc/7/exe")

    with monkeypatch.context() as patched:
        patched.setattr(world.keeper._host, "facts", refused)
        with pytest.raises(KernelError, match="/proc/7/exe"):
            world.load(GOOD)
    assert (world.keeper.failures, len(world.kernel.installed)) == (1, 1)
    assert "Permission denied" in world.keeper.last_error
    assert world.keeper.failed_at_host


def test_a_file_that_cannot_be_read_is_the_hosts_failure_and_one_that_is_wrong_is_not(world: World) -> None:
    world.load(GOOD)
    world.policy.unlink()
    world.policy.symlink_to("nowhere")
    with pytest.raises(PolicyErrors, match="cannot be read"):
        world.keeper.reload()
    assert world.keeper.failed_at_host
    world.policy.unlink()
    with pytest.raises(PolicyErrors, match="the policy is gone"):
        world.keeper.reload()
    assert world.keeper.failed_at_host
    with pytest.raises(PolicyErrors):
        world.load(BAD)
    assert not world.keeper.failed_at_host


def test_after_a_bad_policy_at_start_the_one_of_an_earlier_run_stays(world: World) -> None:
    world.load(GOOD)
    world.keeper = world.daemon()
    with pytest.raises(PolicyErrors):
        world.load(BAD)
    assert not world.keeper.follow_host()
    assert len(world.kernel.installed) == 1


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
    return kernel[-1][2], kernel[-1][3] & MEMBER_FLAGS


def test_a_container_is_unsure_until_it_has_a_name(world: World) -> None:
    named = Container("a" * 64, "docker", "web-1", known=True)
    of_path = {PATH: Container("a" * 64, "docker")}
    world.containers = of_path
    world.load(WEB)
    world.keeper.cgroup_made(7, PATH)
    assert in_force(world, 7, PATH) == (0b11, MEMBER_CONTAINER | MEMBER_UNSURE)
    assert world.keeper.unnamed
    of_path[PATH] = named
    world.keeper.name_containers()
    assert in_force(world, 7, PATH) == (0b11, MEMBER_CONTAINER)
    assert not world.keeper.unnamed
    of_path[PATH] = dataclasses.replace(named, name="cache")
    world.keeper.cgroup_made(8, PATH)
    assert in_force(world, 8, PATH) == (0b01, MEMBER_CONTAINER), "another one, and still a container"
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
    tables = world.kernel.installed[-1]
    keys = {(key.netns, key.network) for key in tables.targets if key.ports == tables.number_of(80)}
    assert 80 in tables.ports
    assert {(9, to_network("::1/128")), (0, to_network("10.1.0.2/32"))} <= keys
    world.facts = namespaces
    assert world.keeper.follow_host()
    assert 80 not in world.kernel.installed[-1].ports


def test_a_flood_of_fresh_executables_does_not_fill_the_kernels_table(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy of a program is a new path, and anybody can make one for each connect()."""
    monkeypatch.setattr("agent.daemon.policy_sync.late_members.MOST_STRANGERS", 10)
    forgotten: list[int] = []
    keeper = PolicyKeeper(
        world.settings,
        world.kernel,  # type: ignore[arg-type]
        State(world.settings.paths.state),
        HostOf(lambda policy: FACTS),  # type: ignore[arg-type]
        world.documents(),
        Sources(names=ForgottenNames(forgotten)),  # type: ignore[arg-type]
    )
    world.policy.write_text(GOOD)
    keeper.reload()
    keeper.executable_known("/opt/billing/bin/invoice")
    copies = [f"/tmp/copy-{number}" for number in range(25)]
    for path in copies:
        keeper.executable_known(path)
    kept = {value for dimension, value, *_ in world.kernel.members if dimension is Dimension.EXE}
    hashes = [path_hash(path, SEED) for path in copies]
    assert kept == {path_hash("/opt/billing/bin/invoice", SEED), *hashes[-10:]}
    assert forgotten == hashes[:-10], "or the kernel would never tell them again"


def test_namespaces_that_come_and_go_do_not_fill_the_kernels_table(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.daemon.policy_sync.late_members.MOST_GONE", 5)
    world.load(GOOD)
    for cookie in range(100, 140):
        there = Namespace(cookie=cookie, inode=2, path="/run/netns/c", addresses=(HERE,))
        world.facts = dataclasses.replace(FACTS, namespaces=(there,))
        world.keeper.follow_host()
    kept = [value for dimension, value, *_ in world.kernel.members if dimension is Dimension.NETNS]
    assert kept == list(range(134, 140))


def test_the_tables_in_force_are_not_copied_at_each_look(world: World) -> None:
    world.load(GOOD)
    before = world.keeper.tables
    assert before is not None
    assert world.keeper.tables is before
    world.keeper.executable_known("/opt/billing/bin/invoice")
    after = world.keeper.tables
    assert after is not None
    number = after.members[(Dimension.EXE, path_hash("/opt/billing/bin/invoice", SEED))]
    assert after.sets[number] & world.keeper.compiled.index.executable("/opt/billing/bin/invoice")  # type: ignore[union-attr]
    assert world.keeper.tables is after
    world.keeper.executable_known("/opt/billing/bin/report")
    assert world.keeper.tables is after, "a name, but no new set"
    assert (Dimension.EXE, path_hash("/opt/billing/bin/report", SEED)) in after.members
    world.load(GOOD.replace("5432", "5433"))
    assert world.keeper.tables is not after
