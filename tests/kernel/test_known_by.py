"""By what the kernel knows a process: its executable's path, its groups, its cgroup; and where that ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from agent import abi
from agent.model import Decision, Destination, HostFacts, Protocol, Reason, to_address
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import MAX_PATH_COMPONENTS
from agent.policy.terms.hashing import UNTRUSTED_NAME, path_hash
from tests.fixtures import cgroups
from tests.fixtures.waiting import wait_for
from tests.kernel.decision_world import Client, World
from tests.kernel.loading import map_of_program

pytestmark = pytest.mark.root

ADDRESS, PORT = "10.1.0.5", 5432
"""Nobody is there; it means the same in every network namespace."""
LICENSED = (Decision.ALLOWED, Reason.LICENSED)
UNLICENSED = (Decision.DENIED, Reason.UNLICENSED_PRINCIPAL)
LET_IN = (Decision.ALLOWED, Reason.UNRESOLVED)
KEPT_OUT = (Decision.DENIED, Reason.UNRESOLVED)
EXE_UNKNOWN = 2  # bpf/abi.h

ODD_NAMES = [
    *("x" * length for length in (1, 7, 8, 9, 16, 63, 64, 255)),
    "with spaces and 'quotes'",
    "na\u00efve-\u6f22\u5b57",
    os.fsdecode(b"not-utf-8-\xff\xfe"),
    ".hidden",
    "new\nline",
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        made.add_program("/bin/client")
        yield made


@dataclass(frozen=True, slots=True)
class Judge:
    """Installs policies of one target and one principal, and asks what they mean for a client."""

    world: World

    def install(
        self,
        *selectors: dict[str, Any],
        on_unresolved: str | None = "allow",
        mode: str = "observe",
        **license_: Any,
    ) -> None:
        document = {
            "version": 1,
            "enforcement": {"default": mode},
            "services": {
                "db": {
                    "product": "red",
                    "at": [f"{ADDRESS}/32"],
                    **({"on_unresolved": on_unresolved} if on_unresolved else {}),
                    "ports": [{"port": PORT, "class": "internal"}],
                }
            },
            "principals": {"who": list(selectors)},
            "licenses": [
                {
                    "id": "l",
                    "product": "red",
                    "entitlements": [{"id": "e", "principals": ["who"]}],
                    **license_,
                }
            ],
        }
        facts = HostFacts(
            host_netns=self.world.host_netns,
            addresses=(),
            boot_offset_ns=time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            hash_seed=self.world.seed,
        )
        policy = parse_policy(yaml.safe_dump(document, allow_unicode=True))
        self.world.install(compile_policy(policy, facts, Ids()).tables)

    def __call__(self, **client: Any) -> tuple[Decision, Reason]:
        decision, reason, _ = self.ask(**client)
        return decision, reason

    def ask(self, **client: Any) -> tuple[Decision, Reason, int]:
        """Also the kernel's hash of the executable's path."""
        destination = Destination(Protocol.TCP, to_address(ADDRESS), PORT, self.world.host_netns)
        seen = self.world.attempt(Client(**({"exe": "/bin/client"} | client)), destination)
        [(judged, count)] = seen.judged.items()
        [(use, _)] = seen.uses
        assert count == 1
        return judged.verdict.decision, judged.verdict.reason, use.exe


@pytest.fixture
def judge(world: World) -> Judge:
    return Judge(world)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_has_the_hash_that_user_space_gives_it(world: World, judge: Judge, name: str) -> None:
    judge.install({"uid": 1})
    for path in (f"/leaf/{name}", f"/directory/{name}/{name}"):
        world.add_program(path)
        assert judge.ask(exe=path)[2] == path_hash(path, world.seed)


def test_a_program_in_the_root_directory_has_the_hash_that_user_space_gives_it(
    world: World, judge: Judge
) -> None:
    judge.install({"exe": ["/*"]})
    world.add_program("/init")
    assert judge.ask(exe="/init") == (*LICENSED, path_hash("/init", world.seed))


@pytest.mark.parametrize("name", [each for each in ODD_NAMES if each.isprintable()])
def test_a_directory_with_an_odd_name_licenses_what_is_in_it(world: World, judge: Judge, name: str) -> None:
    judge.install({"exe": [f"/directories/{name}/*"]})
    world.add_program(f"/directories/{name}/tool")
    world.add_program(f"/directories/{name}/below/tool")
    assert judge(exe=f"/directories/{name}/tool") == LICENSED
    assert judge(exe=f"/directories/{name}/below/tool") == UNLICENSED


def test_a_renamed_file_is_known_by_its_new_name_at_once(world: World, judge: Judge) -> None:
    judge.install({"exe": ["/renamed/after"]})
    world.add_program("/renamed/before")
    assert judge(exe="/renamed/before") == UNLICENSED
    (world.root / "renamed/before").rename(world.root / "renamed/after")
    assert judge(exe="/renamed/after") == LICENSED


def test_another_file_of_the_same_name_is_licensed_at_once(world: World, judge: Judge) -> None:
    judge.install({"exe": ["/replaced/tool"]})
    world.add_program("/replaced/tool")
    assert judge(exe="/replaced/tool") == LICENSED
    world.add_program("/replaced/new")
    (world.root / "replaced/new").rename(world.root / "replaced/tool")
    assert judge(exe="/replaced/tool") == LICENSED


def test_each_name_of_one_file_is_judged_by_itself(world: World, judge: Judge) -> None:
    judge.install({"exe": ["/linked/licensed"]})
    world.add_program("/linked/licensed", link=True)
    world.add_program("/linked/other", link=True)
    assert judge(exe="/linked/licensed") == LICENSED
    assert judge(exe="/linked/other") == UNLICENSED


def test_a_file_in_a_renamed_directory_is_soon_known_by_its_new_path(world: World, judge: Judge) -> None:
    judge.install({"exe": ["/old/tool"]})
    world.add_program("/old/tool")
    assert judge(exe="/old/tool") == LICENSED
    (world.root / "old").rename(world.root / "new")
    wait_for(lambda: judge(exe="/new/tool") == UNLICENSED, "it is /new/tool")
    assert judge.ask(exe="/new/tool")[2] == path_hash("/new/tool", world.seed)


def test_an_executable_as_deep_as_the_walk_goes_is_known_and_one_below_it_is_not(
    world: World, judge: Judge
) -> None:
    deepest = "/deep" + "/x" * (MAX_PATH_COMPONENTS - 2) + "/tool"
    deeper = "/deep" + "/x" * (MAX_PATH_COMPONENTS - 1) + "/tool"
    judge.install({"exe": ["/deep/**"]}, {"exe": [deepest]}, on_unresolved="allow")
    for path in (deepest, deeper):
        world.add_program(path)
    assert judge(exe=deepest) == LICENSED
    lost = world.counters.losses()["path"]
    assert judge(exe=deeper) == UNLICENSED, "for certain"
    assert world.counters.losses()["path"] == lost + 1


@pytest.fixture
def no_room_to_walk(world: World) -> Iterator[None]:
    """Each row is some thread's: of a kernel that interrupts programs, any number may be under way."""
    walks = map_of_program(world.pins, "observe_connect4", "path_walks")
    blank = bytes(walks.value_size)
    threads = [abi.U64.pack(thread) for thread in range(1, walks.max_entries + 1)]
    for thread in threads:
        walks.put(thread, blank)
    yield
    for thread in threads:
        walks.remove(thread)
    walks.close()


@pytest.mark.parametrize("pattern", ["/full/*", "/full/tool{}", "/f*/tool{}", "/**/tool{}"])
def test_an_executable_that_there_is_no_room_to_look_at_is_unresolved(
    world: World, judge: Judge, pattern: str, no_room_to_walk: None
) -> None:
    """Whether a selector takes it or another one's: nobody has looked."""
    fresh = iter(f"/full/tool{number}{len(pattern)}" for number in range(9))
    for exe in (pattern.format(f"0{len(pattern)}"), "/other/tool"):
        for on_unresolved, mode, answer in (
            ("allow", "enforce", LET_IN),
            ("deny", "observe", KEPT_OUT),
            (None, "enforce", KEPT_OUT),
            (None, "observe", LET_IN),
        ):
            path = next(fresh)
            world.add_program(path)
            judge.install({"exe": [exe]}, on_unresolved=on_unresolved, mode=mode)
            lost = world.counters.losses()["identity"]
            assert judge.ask(exe=path) == (*answer, EXE_UNKNOWN)
            assert world.counters.losses()["identity"] == lost + 1


def test_what_does_not_speak_of_executables_is_certain_all_the_same(
    world: World, judge: Judge, no_room_to_walk: None
) -> None:
    world.add_program("/full/certain")
    judge.install({"uid": 1004}, {"exe": ["/full/other"]}, on_unresolved="deny")
    assert judge(exe="/full/certain") == LICENSED
    judge.install({"uid": 1005, "exe": ["/full/certain"]}, on_unresolved="allow")
    assert judge(exe="/full/certain") == UNLICENSED


def test_a_name_in_a_mount_namespace_of_the_users_own_licenses_nothing(world: World, judge: Judge) -> None:
    judge.install({"exe": ["/bin/*"]}, {"exe": ["/b*/client"]})
    assert judge() == LICENSED
    decision, reason, exe = judge.ask(trusted=False)
    assert (decision, reason) == UNLICENSED
    assert exe == path_hash("/bin/client", world.seed) | UNTRUSTED_NAME


@pytest.mark.parametrize(("on_unresolved", "answer"), [("allow", LET_IN), ("deny", KEPT_OUT)])
def test_a_name_that_nobody_has_matched_yet_is_unresolved(
    judge: Judge, on_unresolved: str, answer: tuple[Decision, Reason]
) -> None:
    judge.install({"exe": ["/b*/cl?ent"]}, on_unresolved=on_unresolved)
    assert judge() == answer


NEVER_NS = 2**64 - 1
HOST = 0
DB = 1
"""Places in `modes`: of the whole host, and of the one target."""


@pytest.mark.parametrize(
    ("mode", "overrides", "answer"),
    [
        ("observe", {}, LET_IN),
        ("enforce", {}, KEPT_OUT),
        ("observe", {HOST: (abi.Override.ENFORCE, NEVER_NS)}, KEPT_OUT),
        ("enforce", {HOST: (abi.Override.OBSERVE, NEVER_NS)}, LET_IN),
        ("enforce", {HOST: (abi.Override.OBSERVE, 1)}, KEPT_OUT),
        ("observe", {HOST: (abi.Override.OBSERVE, NEVER_NS), DB: (abi.Override.ENFORCE, NEVER_NS)}, KEPT_OUT),
        ("enforce", {HOST: (abi.Override.ENFORCE, NEVER_NS), DB: (abi.Override.OBSERVE, NEVER_NS)}, LET_IN),
    ],
)
def test_who_is_unresolved_is_denied_where_the_mode_in_force_is_enforce(
    world: World,
    judge: Judge,
    mode: str,
    overrides: dict[int, tuple[abi.Override, int]],
    answer: tuple[Decision, Reason],
) -> None:
    judge.install({"exe": ["/b*/cl?ent"]}, on_unresolved=None, mode=mode)
    try:
        for place, (override, until_ns) in overrides.items():
            world.override(place, override, until_ns)
        assert judge() == answer
        judge.install({"exe": ["/b*/cl?ent"]}, on_unresolved="allow", mode=mode)
        assert judge() == LET_IN
        judge.install({"exe": ["/b*/cl?ent"]}, on_unresolved="deny", mode=mode)
        assert judge() == KEPT_OUT
    finally:
        for place in overrides:
            world.override(place, abi.Override.NONE, 0)


def test_a_namespace_that_nobody_has_looked_at_yet_is_unresolved(world: World, judge: Judge) -> None:
    judge.install({"cidr": ["10.0.0.0/8"]})
    assert judge(netns=world.netns["unknown"]) == LET_IN
    judge.install({"cidr": ["10.0.0.0/8"]}, on_unresolved="deny")
    assert judge(netns=world.netns["unknown"]) == KEPT_OUT
    assert judge() == UNLICENSED, "a process of the host has no address"


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 66, 127, 128, 129, 1000, 65534, 65535, 65536])
def test_a_group_is_found_among_any_number_of_them(world: World, judge: Judge, count: int) -> None:
    held = range(3000, 3000 + 2 * count, 2)
    places = sorted({0, 1, count // 2, count - 2, count - 1} & set(range(count)))
    lost = world.counters.losses()["groups"]
    for place in places:
        judge.install({"gid": [held[place]]})
        assert judge(groups=tuple(held)) == LICENSED, place
    for gid in (2998, 2999, held[0] + 1, held[-1] - 1, held[-1] + 1, 2**32 - 2):
        judge.install({"gid": [gid]})
        assert judge(gid=2997, groups=tuple(held)) == UNLICENSED, gid
    assert world.counters.losses()["groups"] == lost


def test_of_many_groups_each_of_64_that_a_target_speaks_of_is_found(judge: Judge) -> None:
    spoken = range(5000, 5000 + 3 * 64, 3)
    judge.install(*({"gid": [gid], "uid": [1100 + place]} for place, gid in enumerate(spoken)))
    others = tuple(range(3000, 3200))
    for place in range(64):
        assert judge(uid=1100 + place, groups=(*others, spoken[place])) == LICENSED, place
        assert judge(uid=1100 + place, groups=(*others, spoken[place] + 1)) == UNLICENSED, place
    assert judge(uid=1100, gid=spoken[0], groups=others) == LICENSED, "the effective one"


def test_a_group_that_no_one_can_hold_fills_up_a_list(judge: Judge) -> None:
    judge.install({"gid": [2001]})
    assert judge(groups=tuple(range(2**32 - 101, 2**32 - 1))) == UNLICENSED


def test_a_cgroup_is_found_12_levels_up_and_one_below_that_is_what_lies_above(
    world: World, judge: Judge
) -> None:
    """Nobody brings himself into doubt by going deeper."""
    top = f"{world.lab.scope}/levels"
    judge.install({"cgroup": [top]}, on_unresolved="allow")
    twelve, thirteen, twenty = (cgroups.make(top + "/x" * below) for below in (10, 11, 18))
    for deep in (twelve, thirteen, twenty):
        assert judge(cgroup=deep) == LICENSED
    assert judge(cgroup=world.lab.scope) == UNLICENSED
    judge.install({"unit": ["billing.service"]}, on_unresolved="allow")
    for deep in (twelve, thirteen, twenty):
        assert judge(cgroup=deep) == UNLICENSED
        assert judge(cgroup=cgroups.make(f"{deep}/billing.service")) == UNLICENSED


@pytest.mark.parametrize(
    "name", ["a", "a" * 7, "a" * 8, "a" * 9, "a" * 150, "with space", "na\u00efve-\u6f22"]
)
def test_a_cgroup_made_under_the_policy_is_licensed_from_its_first_connect_on(
    world: World, judge: Judge, name: str
) -> None:
    path = f"{world.lab.scope}/{name}.service"
    judge.install({"cgroup": [path]})
    for _ in range(2):  # restarted: another cgroup of the same name
        cgroups.make(path)
        assert judge(cgroup=path) == LICENSED
        assert judge(cgroup=cgroups.make(f"{path}/worker")) == LICENSED
        cgroups.remove(path)


LONG = "x" * 255
STARRED = [
    ("/globs/*/bin/server", "/globs/app/bin/server", "/globs/bin/server"),
    ("/globs/*/bin/server", "/globs/.hidden/bin/server", "/globs/a/b/bin/server"),
    ("/globs/*/bin/server", f"/globs/{LONG}/bin/server", f"/globs/{LONG}/bin/serve"),
    ("/globs/jdk-*/bin/java", "/globs/jdk-/bin/java", "/globs/jdk/bin/java"),
    ("/globs/app-*-v/bin/x", "/globs/app-1-v/bin/x", "/globs/app-v/bin/x"),
    ("/globs/app-*-v/bin/x", "/globs/app--v/bin/x", "/globs/xapp-1-v/bin/x"),
    ("/globs/aba*aba/x", "/globs/abaaba/x", "/globs/ababa/x"),
    ("/globs/tool*", "/globs/tool", "/globs/too"),
    ("/globs/*tool", "/globs/a-tool", "/globs/tool-a"),
    ("/*/top", "/anything/top", "/anything/other/top"),
    (f"/globs/{LONG[:100]}*{LONG[:155]}/x", f"/globs/{LONG}/x", f"/globs/{LONG[1:]}/x"),
    (f"/longs/{LONG}*", f"/longs/{LONG}", f"/longs/{LONG[1:]}"),
    ("/globs/na\u00efve-*/x", "/globs/na\u00efve-\u6f22/x", "/globs/naive-1/x"),
    ("/globs/raw-*/x", os.fsdecode(b"/globs/raw-\xff\xfe/x"), os.fsdecode(b"/globs/ra\xff\xfe/x")),
    ("/globs/*\u00e9/x", "/globs/caf\u00e9/x", os.fsdecode(b"/globs/caf\xc3/x")),
    ("/globs/d*" + "/d" * 21 + "/x", "/globs/deep" + "/d" * 21 + "/x", "/globs/deep" + "/d" * 20 + "/x"),
    ("/globs" + "/d" * 22 + "/x*", "/globs" + "/d" * 22 + "/xyz", "/globs" + "/d" * 22 + "/yz"),
]


@pytest.mark.parametrize(("pattern", "path", "other"), STARRED)
def test_a_glob_with_one_star_is_decided_in_the_kernel_at_the_first_connect(
    world: World, judge: Judge, pattern: str, path: str, other: str
) -> None:
    for each in (path, other):
        if not (world.root / each.lstrip("/")).exists():
            world.add_program(each)
    judge.install({"exe": [pattern]}, on_unresolved="deny")
    assert judge(exe=path) == LICENSED
    assert judge(exe=other) == UNLICENSED
    judge.install({"exe": [pattern], "uid": 4}, on_unresolved="deny")
    assert judge(exe=path, uid=4) == LICENSED
    assert judge(exe=path, uid=5) == UNLICENSED


def test_globs_of_all_shapes_that_take_one_path_all_count(world: World, judge: Judge) -> None:
    path = "/shapes/of/0123456789/server"
    world.add_program(path)
    globs = [f"/shapes/of/{'0123456789'[:length]}*/server" for length in range(8)]
    globs += [f"/shapes/of/0123456789/{'server'[:length]}*" for length in range(1, 6)]
    globs += ["/shapes/*/0123456789/server", "/*/of/0123456789/server", "/shapes/of/*9/server"]
    assert len(globs) == 16
    judge.install(*({"exe": [glob], "uid": 1100 + place} for place, glob in enumerate(globs)))
    for place in range(16):
        assert judge(exe=path, uid=1100 + place) == LICENSED, globs[place]
    assert judge(exe=path, uid=1100 + 16) == UNLICENSED


def test_globs_are_those_of_the_policy_in_force_at_once(world: World, judge: Judge) -> None:
    world.add_program("/switch/app/server")
    for _ in range(5):
        judge.install({"exe": ["/switch/*/server"]})
        assert judge(exe="/switch/app/server") == LICENSED
        judge.install({"exe": ["/switch/b*/server"]})
        assert judge(exe="/switch/app/server") == UNLICENSED
        judge.install({"uid": 1, "exe": ["/switch/*/server"]}, {"exe": ["/*/app/server"], "uid": 1004})
        assert judge(exe="/switch/app/server") == LICENSED


def test_a_glob_takes_no_name_in_a_mount_namespace_of_the_users_own(world: World, judge: Judge) -> None:
    judge.install({"exe": ["/b*/client"]}, on_unresolved="deny")
    assert judge() == LICENSED
    assert judge(trusted=False) == UNLICENSED


def test_ids_that_count_are_the_effective_ones(judge: Judge) -> None:
    judge.install({"uid": [1001], "gid": [2001]})
    assert judge(uid=1001, gid=2001) == LICENSED
    judge.install({"uid": [1998]}, {"gid": [2998]})
    assert judge(uid=1001, gid=2001) == UNLICENSED


def test_a_license_ends_at_its_instant(judge: Judge) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=1)
    judge.install({"uid": [1004]}, expires_at=ends)
    answer = LICENSED
    while answer == LICENSED:
        before = datetime.now(UTC)
        answer = judge()
        after = datetime.now(UTC)
        assert answer == LICENSED or after >= ends
        assert answer != LICENSED or before < ends
    assert answer == (Decision.DENIED, Reason.EXPIRED)


def test_a_cgroup_that_nobody_has_looked_at_may_be_any_container(world: World, judge: Judge) -> None:
    path = f"{world.lab.scope}/new"
    for outcome, unresolved in ((LET_IN, "allow"), (KEPT_OUT, "deny")):
        judge.install({"container": "web"}, on_unresolved=unresolved)
        cgroups.remove(path)
        number = world.make(path)
        assert judge(cgroup=path) == outcome
        world.settle(path, number)
        assert judge(cgroup=path) == UNLICENSED


def test_a_new_cgroup_takes_nothing_from_who_is_known_otherwise(world: World, judge: Judge) -> None:
    path = f"{world.lab.scope}/new"
    judge.install({"container": "web"}, {"uid": 1234}, on_unresolved="deny")
    cgroups.remove(path)
    cgroups.make(path)
    assert judge(cgroup=path, uid=1234) == LICENSED
    judge.install({"uid": 1235})
    cgroups.remove(path)
    cgroups.make(path)
    assert judge(cgroup=path, uid=1234) == UNLICENSED, "the policy speaks of no container"
