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

from agent.model import Decision, Destination, HostFacts, Protocol, Reason, to_address
from agent.policy.compile import compile_policy
from agent.policy.document import parse_policy
from agent.policy.hashing import UNTRUSTED_NAME, path_hash
from agent.policy.ids import Ids
from agent.policy.tables import MAX_PATH_COMPONENTS
from tests.fixtures import cgroups
from tests.fixtures.waiting import wait_for
from tests.kernel.decision_world import Client, World

pytestmark = pytest.mark.root

ADDRESS, PORT = "10.1.0.5", 5432
"""Nobody is there; it means the same in every network namespace."""
LICENSED = (Decision.ALLOWED, Reason.LICENSED)
UNLICENSED = (Decision.DENIED, Reason.UNLICENSED_PRINCIPAL)
LET_IN = (Decision.ALLOWED, Reason.UNRESOLVED)
KEPT_OUT = (Decision.DENIED, Reason.UNRESOLVED)

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
        on_unresolved: str = "allow",
        **license_: Any,
    ) -> None:
        document = {
            "version": 1,
            "services": {
                "db": {
                    "product": "red",
                    "at": [f"{ADDRESS}/32"],
                    "on_unresolved": on_unresolved,
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
    wait_for(lambda: judge(exe="/new/tool") == UNLICENSED, "it is /new/tool", timeout_s=5)
    assert judge.ask(exe="/new/tool")[2] == path_hash("/new/tool", world.seed)


def test_an_executable_as_deep_as_the_walk_goes_is_known_and_one_below_it_is_not(
    world: World, judge: Judge
) -> None:
    deepest = "/deep" + "/x" * (MAX_PATH_COMPONENTS - 2) + "/tool"
    deeper = "/deep" + "/x" * (MAX_PATH_COMPONENTS - 1) + "/tool"
    judge.install({"exe": ["/deep/**"]}, {"exe": [deepest]}, on_unresolved="deny")
    for path in (deepest, deeper):
        world.add_program(path)
    assert judge(exe=deepest) == LICENSED
    lost = world.counters.losses()["path"]
    assert judge(exe=deeper) == KEPT_OUT
    assert world.counters.losses()["path"] == lost + 1


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


def test_a_namespace_that_nobody_has_looked_at_yet_is_unresolved(world: World, judge: Judge) -> None:
    judge.install({"cidr": ["10.0.0.0/8"]})
    assert judge(netns=world.netns["unknown"]) == LET_IN
    judge.install({"cidr": ["10.0.0.0/8"]}, on_unresolved="deny")
    assert judge(netns=world.netns["unknown"]) == KEPT_OUT
    assert judge() == UNLICENSED, "a process of the host has no address"


def test_a_group_is_found_among_64_and_more_are_unresolved(world: World, judge: Judge) -> None:
    judge.install({"gid": [2001]}, on_unresolved="deny")
    others = tuple(range(3000, 3063))
    assert judge(groups=(*others, 2001)) == LICENSED
    assert judge(groups=(*others, 3063)) == UNLICENSED
    assert judge(gid=2001, groups=(*others, 3063)) == LICENSED
    lost = world.counters.losses()["groups"]
    assert judge(groups=(*others, 3063, 2001)) == KEPT_OUT
    assert world.counters.losses()["groups"] == lost + 1


def test_a_cgroup_is_found_12_levels_up_and_deeper_ones_are_unresolved(world: World, judge: Judge) -> None:
    top = f"{world.lab.scope}/levels"
    judge.install({"cgroup": [top]}, on_unresolved="deny")
    twelve, thirteen = (cgroups.make(top + "/x" * below) for below in (10, 11))
    assert judge(cgroup=twelve) == LICENSED
    assert judge(cgroup=world.lab.scope) == UNLICENSED
    lost = world.counters.losses()["cgroups"]
    assert judge(cgroup=thirteen) == KEPT_OUT
    assert world.counters.losses()["cgroups"] == lost + 1


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
        made = {path: cgroups.directory(cgroups.make(path)).stat().st_ino}
        assert judge(cgroup=path) == outcome
        world.settle(made)
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
