"""What the kernel takes a new cgroup for, at its making: by its name and by who could have made it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from agent import abi
from agent.kernel.tables.ring import decode
from agent.model import Container, HostFacts
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import (
    MEMBER_CONTAINER,
    MEMBER_FLAGS,
    MEMBER_UNSURE,
    MEMBER_UNSURE_UNIT,
    Dimension,
)
from agent.policy.terms.cgroups import container_in
from tests.fixtures import cgroups
from tests.kernel.decision_world import World

pytestmark = pytest.mark.root

ID = "0123456789abcdef" * 4
OTHERS_UID = 1498
UNITS_NAMED = ["billing.service", "web@*.service", "web@1.service", "batch.slice", "cpu.service", "in.socket"]
CGROUP_NAMED = "/place/named/billing.service"
"""Below the lab's scope."""
TOPS = [
    *(f"{runtime}-{ID}.scope" for runtime in ("docker", "cri-containerd", "crio", "libpod", "nerdctl")),
    *(f"{runtime}-{ID}" for runtime in ("docker", "crio", "libpod", "libpod-payload")),
    ID,
    f"{ID}.scope",
    f"docker/{ID}",
    f"kubepods-burstable-pod1.slice:cri-containerd:{ID}",
    "lxc.payload.web",
    "lxc.payload/web",
    "lxc/101",
    "systemd-nspawn@web.service",
    "machine-web.scope",
    "machine-lxc\\x2d7\\x2dweb.scope",
    "crun-web.scope",
    "runc-web.scope",
    "garden/a1b2",
    "docker/buildkit/xyz",
    f"libpod_parent/{ID}/libpod-{ID}",
]
UNITS = [
    "billing.service",
    "x.socket",
    "system.slice",
    "a.mount",
    "dev.swap",
    "a.scope",
    "machine-qemu\\x2d1\\x2dvm.scope",
    f"libpod-conmon-{ID}.scope",
    f"crio-conmon-{ID}.scope",
    f"docker-{ID[:-1]}g.scope",
    f"docker-{ID.upper()}.scope",
    f"docker-{ID}0.scope",
    f"{ID}.service",
    "systemd-nspawn.service",
    "d3b07384-d9a0-4c9b-8f6e-1f2a3b4c5d6e.web.scope",
]
BARE = ["web", "lxc", "lxc.payload", "lxc.monitor.web", "garden", f"libpod_parent/{ID}", ID[:-1], f"x{ID}"]


class Births:
    """A policy in force, under which cgroups are made."""

    def __init__(self, world: World) -> None:
        self.world = world

    def install(self, **facts: Any) -> None:
        policy = {
            "version": 1,
            "services": {"db": {"product": "red", "ports": [{"port": 5432, "class": "internal"}]}},
            "principals": {
                "units": [{"unit": UNITS_NAMED}],
                "paths": [{"cgroup": f"{self.world.lab.scope}{CGROUP_NAMED}"}],
                "containers": [{"container": "web"}],
            },
            "licenses": [
                {
                    "id": "l",
                    "product": "red",
                    "entitlements": [{"id": "e", "principals": ["units", "paths", "containers"]}],
                }
            ],
        }
        host = HostFacts(host_netns=self.world.host_netns, addresses=(), hash_seed=self.world.seed)
        self.compiled = compile_policy(parse_policy(yaml.safe_dump(policy)), replace(host, **facts), Ids())
        self.world.install(self.compiled.tables)

    def member(self, path: str) -> tuple[set[str], int] | None:
        """The principals that the cgroup there holds by, and its flags; None: it is no member."""
        value = self.world.members.get(abi.MEMBER_KEY.pack(Dimension.CGROUP, 0, self.number(path)))
        if value is None:
            return None
        (number,) = abi.U32.unpack(value)
        clauses = self.compiled.tables.sets[number & ~MEMBER_FLAGS]
        named = self.compiled.index.principals.items()
        return {name for name, bits in named if clauses & bits and name != "anyone"}, number & MEMBER_FLAGS

    def flags(self, path: str) -> int | None:
        member = self.member(path)
        return member[1] if member else None

    def units(self, path: str) -> bool:
        """Is it a unit that the policy names, for certain?"""
        return self.member(path) == ({"units"}, 0)

    @staticmethod
    def number(path: str) -> int:
        return cgroups.directory(path).stat().st_ino

    def told(self) -> dict[int, tuple[str, bool]]:
        """(path, by root) of the cgroups that the kernel has told of since the last time, by id."""
        events = [one for one in decode(self.world.drain()) if isinstance(one, abi.CgroupEvent)]
        return {one.id: (one.path.decode(), bool(one.by_root)) for one in events}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.fixture
def births(world: World) -> Births:
    made = Births(world)
    made.install()
    world.drain()
    return made


@pytest.fixture
def place(world: World) -> Iterator[str]:
    """A folder that was there before the policy."""
    path = cgroups.make(f"{world.lab.scope}/place")
    yield path
    cgroups.remove(path)


def make(place: str, name: str) -> str:
    return cgroups.make(f"{place}/{name}")


def give_away(path: str, owner: int = OTHERS_UID, mode: int = 0o755) -> str:
    os.chown(cgroups.directory(path), owner, owner)
    cgroups.directory(path).chmod(mode)
    return path


@pytest.mark.parametrize("name", TOPS)
def test_a_containers_top_is_marked_by_its_name(place: str, births: Births, name: str) -> None:
    assert births.flags(make(place, name)) == MEMBER_CONTAINER | MEMBER_UNSURE


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_no_container_and_never_in_doubt(place: str, births: Births, name: str) -> None:
    assert births.flags(make(place, name)) in (None, 0)


@pytest.mark.parametrize("name", BARE)
def test_what_may_be_a_bare_container_is_unsure(place: str, births: Births, name: str) -> None:
    assert births.flags(make(place, name)) == MEMBER_UNSURE


@pytest.mark.parametrize("name", [*TOPS, *UNITS, *BARE])
def test_user_space_knows_the_same_names(name: str) -> None:
    found = container_in(f"/a.slice/{name}")
    assert (found is not None) == (name in TOPS)


PREFIXES = [
    "",
    *(f"{name}-" for name in ("docker", "cri-containerd", "crio", "libpod", "libpod-payload", "nerdctl")),
    *("crun-", "runc-", "crun", "xcrun-", "libpod-conmon-", "docker--"),
    *("a:b:", ":", "docker:", "lxc.payload.", "lxc.payload", "lxc.monitor."),
    *("systemd-nspawn@", "systemd-nspawn", "machine-", "machine", "xmachine-"),
    *(f"machine-{kind}\\x2d" for kind in ("qemu", "xen", "ch", "bhyve", "lxc", "qem")),
]
MIDDLES = ["", "w", "web", ID, ID[:-1], f"{ID}0", ID.upper(), f"{ID[:-1]}g"]
SUFFIXES = ["", ".scope", ".service", ".scop"]
PARENTS = ["", "lxc", "lxc.payload", "garden", "buildkit", "docker", "libpod_parent", "machine.slice", "lxcx"]


@pytest.mark.parametrize("parent", PARENTS)
def test_kernel_and_user_space_take_the_same_names_for_a_container(
    place: str, births: Births, parent: str
) -> None:
    above = f"{place}/{parent}".rstrip("/")
    made = 0
    for prefix, middle, suffix in itertools.product(PREFIXES, MIDDLES, SUFFIXES):
        name = prefix + middle + suffix
        if not name.strip("."):
            continue
        path = make(above, name)
        is_container = bool((births.flags(path) or 0) & MEMBER_CONTAINER)
        found = container_in(f"/{parent}/{name}" if parent else f"/{name}")
        assert (name, is_container) == (name, found is not None)
        cgroups.remove(path)
        made += 1
    assert made > 500


def test_below_a_top_nothing_is_marked(place: str, births: Births) -> None:
    top = make(place, f"docker-{ID}.scope")
    for name in (f"docker-{ID}.scope", "web", "lxc.payload.x"):
        assert births.flags(make(top, name)) is None


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o757])
@pytest.mark.parametrize("owner", [0, OTHERS_UID])
def test_who_makes_cgroups_in_a_tree_of_his_makes_no_unit_no_container_and_no_doubt(
    place: str, births: Births, owner: int, mode: int
) -> None:
    given = give_away(make(place, "given.slice"), owner, mode)
    by_root = (owner, mode) == (0, 0o755)
    made = [make(given, name) for name in ("web", f"docker-{ID}.scope", "billing.service", "web@7.service")]
    if by_root:
        assert births.flags(made[0]) == MEMBER_UNSURE
        assert births.flags(made[1]) == MEMBER_CONTAINER | MEMBER_UNSURE
        assert births.units(made[2])
        assert births.units(made[3])
    else:
        assert [births.member(path) for path in made] == [None] * 4
        assert births.member(make(given, "a.slice/b.slice/billing.service")) is None
    told = births.told()
    assert [told[births.number(path)] for path in made] == [(path, by_root) for path in made]


def test_a_tree_that_is_taken_back_leaves_what_was_made_in_it_what_it_was(place: str, births: Births) -> None:
    given = give_away(make(place, "given.slice"))
    forged = make(given, "billing.service")
    give_away(given, 0)
    assert births.member(forged) is None
    assert births.units(make(given, "web@1.service"))


@pytest.mark.parametrize(
    "name",
    [
        "billing.service",
        "odd.slice/odd-er.slice/billing.service",
        "web@1.service",
        "web@2.service",
        "some.slice/web@a@b.c\\x2dd.service",
        "batch.slice",
        "_cpu.service",
        "in.socket",
    ],
)
def test_a_unit_that_starts_for_the_first_time_is_known_wherever_it_does(
    place: str, births: Births, name: str
) -> None:
    for _ in range(2):
        path = make(place, name)
        assert births.units(path)
        cgroups.remove(path)


@pytest.mark.parametrize(
    "name",
    [
        "billing.servic",
        "xbilling.service",
        "_billing.service",
        "cpu.service",
        "web@.service",
        "xweb@1.service",
        "web.service",
        "web@1.socket",
        "web@1.slice",
        "evil.service/billing.service",
        "evil.scope/a.slice/web@2.service",
        "lxc.payload.x/system.slice/billing.service",
        "lxc/x/system.slice/billing.service",
        "lxc/billing.service",
        "garden/x/billing.service",
        f"docker-{ID}.scope/billing.service",
        f"docker/{ID}/billing.service",
        "systemd-nspawn@x.service/payload/system.slice/billing.service",
        "machine-x.scope/web@1.service",
    ],
)
def test_what_only_looks_like_the_unit_is_none(place: str, births: Births, name: str) -> None:
    member = births.member(make(place, name))
    assert member is None or "units" not in member[0]


def test_a_unit_below_what_may_be_a_container_is_in_doubt_until_it_is_known(
    place: str, births: Births, world: World
) -> None:
    """crun and runc call a container's cgroup what they like; only user space can tell."""
    fresh = make(place, "web")
    assert births.member(make(fresh, "billing.service")) == ({"units"}, MEMBER_UNSURE_UNIT)
    assert births.member(make(fresh, "a.slice/web@4.service")) == ({"units"}, MEMBER_UNSURE_UNIT)
    world.settle(fresh, births.number(fresh))
    assert births.units(make(fresh, "in.socket"))


def test_below_a_bare_container_nothing_is_a_unit_or_another_container(place: str, births: Births) -> None:
    bare = make(place, "web")
    container = {bare: Container("web", "crun", "web", known=True)}
    births.install(cgroups={bare: births.number(bare)}, containers=container)
    assert births.member(bare) == ({"containers"}, MEMBER_CONTAINER)
    for name in ("billing.service", "system.slice/web@1.service", f"docker-{ID}.scope", "inner"):
        assert births.member(make(bare, name)) is None
    cgroups.remove(bare)
    again = make(place, "web")
    assert births.member(again) == ({"containers"}, MEMBER_CONTAINER), "made again, while nobody looks"
    assert births.member(make(again, "billing.service")) is None


def test_a_path_that_the_policy_names_counts_whoever_made_it(place: str, births: Births) -> None:
    assert births.member(make(place, "named/billing.service")) == ({"units", "paths"}, MEMBER_UNSURE_UNIT)
    cgroups.remove(f"{place}/named")
    give_away(make(place, "named"))
    assert births.member(make(place, "named/billing.service")) == ({"paths"}, 0)


def test_a_unit_is_known_though_its_path_is_too_long_to_be_told(
    place: str, births: Births, world: World
) -> None:
    long = f"{'x' * 100}.slice/{'y' * 100}.slice/billing.service"
    make(place, long.rpartition("/")[0])
    lost = world.counters.losses()["cgroups"]
    assert births.units(make(place, long))
    assert births.told()[births.number(f"{place}/{long}")] == ("", True)
    assert world.counters.losses()["cgroups"] == lost + 1


def test_below_the_12th_level_nothing_is_a_member_and_below_the_16th_nothing_has_a_path(
    place: str, births: Births
) -> None:
    deep = "/".join(f"{letter}.slice" for letter in "abcdefghijklmnop")
    made = [make(place, deep[: 8 * depth] + "billing.service") for depth in (9, 10, 14)]
    assert births.units(made[0])
    assert births.member(made[1]) is None
    told = births.told()
    assert told[births.number(made[1])] == (made[1], True)
    assert told[births.number(made[2])][0] == ""


class TestInAContainerWithACgroupNamespace:
    """The agent takes what it sees for its host; the kernel's paths begin elsewhere."""

    @pytest.fixture
    def host(self, place: str, births: Births, world: World) -> str:
        path = make(place, "lxc.payload.c1")
        births.install(cgroups={"/": births.number(path)})
        world.drain()
        return path

    def test_its_units_are_units_and_told_as_it_sees_them(self, host: str, births: Births) -> None:
        path = make(host, "system.slice/billing.service")
        assert births.units(path)
        assert births.told()[births.number(path)] == ("/system.slice/billing.service", True)

    def test_what_lies_beside_it_is_nothing_to_it(self, host: str, place: str, births: Births) -> None:
        for name in ("billing.service", "lxc.payload.c2/system.slice/billing.service", "web"):
            assert births.member(make(place, name)) is None
        assert births.told() == {}

    def test_a_container_in_it_is_a_container(self, host: str, births: Births) -> None:
        top = make(host, f"system.slice/docker-{ID}.scope")
        assert births.flags(top) == MEMBER_CONTAINER | MEMBER_UNSURE
        assert births.member(make(top, "billing.service")) is None

    def test_what_it_has_given_away_is_nobodys_unit(self, host: str, births: Births) -> None:
        given = give_away(make(host, "user.slice"))
        path = make(given, "billing.service")
        assert births.member(path) is None
        assert births.told()[births.number(path)] == ("/user.slice/billing.service", False)
