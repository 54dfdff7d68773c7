"""An exclusion by user or group holds for whoever is in a user namespace that these own, and for their
subordinate ids; a license not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.model import Decision, Destination, HostFacts, LocalConsumer, Protocol, Reason, to_address
from agent.policy.decision.evaluate import evaluate
from agent.policy.decision.owners import lineage
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from tests.fixtures.naive import judge
from tests.kernel.decision_world import Client, World

pytestmark = pytest.mark.root

ADDRESS, PORT = "10.1.0.5", 5432
EVE, EVES, OTHER = 1605, 1606, 1700
"""An excluded user, her group, and a number that nothing speaks of: a subordinate id that she was given."""
EXCLUDED, LICENSED, UNLICENSED = Reason.EXCLUDED, Reason.LICENSED, Reason.UNLICENSED_PRINCIPAL


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        made.add_program("/bin/client")
        yield made


def judged(
    world: World,
    banned: str,
    licensed: str,
    client: Client,
    *,
    members: dict[int, frozenset[int]] | None = None,
    subordinates: dict[int, tuple[range, ...]] | None = None,
) -> Reason:
    policy = parse_policy(f"""
version: 1
services: {{db: {{product: red, at: [{ADDRESS}/32], ports: [{{port: {PORT}, class: internal}}]}}}}
principals: {{bad: [{banned}], good: [{licensed}]}}
licenses: [{{id: l, product: red, entitlements: [{{id: e, principals: [good]}}]}}]
restrictions: [{{exclude: bad, target: db}}]
""")
    facts = HostFacts(
        host_netns=world.host_netns,
        addresses=(),
        hash_seed=world.seed,
        members=members or {},
        subordinates=subordinates or {},
    )
    tables = compile_policy(policy, facts, Ids()).tables
    world.install(tables)
    destination = Destination(Protocol.TCP, to_address(ADDRESS), PORT, world.host_netns)
    ((one, count),) = world.attempt(client, destination).judged.items()
    assert count == 1
    assert (one.verdict.decision is Decision.ALLOWED) == (one.verdict.reason is LICENSED)
    consumer = LocalConsumer(
        exe=client.exe,
        uid=client.uid,
        gids=frozenset({client.gid}),
        cgroups=tuple(lineage(world.lab.scope)),
        netns=world.host_netns,
        in_pid_namespace=client.own_pids,
        owners=client.owners,
    )
    for said in (evaluate(tables, consumer, destination, 0), judge(policy, facts, consumer, destination, 0)):
        assert said.reason is one.verdict.reason
    return one.verdict.reason


def client(*owners: tuple[int, int], uid: int = OTHER, gid: int = OTHER, own_pids: bool = False) -> Client:
    return Client("/bin/client", uid=uid, gid=gid, owners=owners, own_pids=own_pids)


@pytest.mark.parametrize("banned", [f"{{uid: {EVE}}}", f"{{gid: {EVES}}}", f"{{uid: {EVE}, gid: {EVES}}}"])
@pytest.mark.parametrize(
    "owners",
    [
        ((EVE, EVES),),
        ((OTHER, OTHER), (EVE, EVES)),
        ((EVE, EVES), (OTHER, OTHER)),
        (*[(OTHER, OTHER)] * 5, (EVE, EVES)),
    ],
    ids=["hers", "in one of hers", "hers in another's", "as deep as the kernel looks"],
)
def test_an_excluded_user_is_excluded_in_her_namespaces(
    world: World, banned: str, owners: tuple[tuple[int, int], ...]
) -> None:
    everybody = f"{{uid: [{OTHER}, {EVE}]}}"
    assert judged(world, banned, everybody, client()) is LICENSED
    assert judged(world, banned, everybody, client(uid=EVE, gid=EVES)) is EXCLUDED
    assert judged(world, banned, everybody, client(*owners)) is EXCLUDED
    assert judged(world, banned, everybody, client(*owners, own_pids=True)) is EXCLUDED


def test_whoever_is_in_namespaces_of_others_is_not(world: World) -> None:
    assert judged(world, f"{{uid: {EVE}}}", f"{{uid: {OTHER}}}", client((OTHER, EVE))) is LICENSED
    both = f"{{uid: {EVE}, gid: {EVES}}}"
    for owner in ((EVE, OTHER), (OTHER, EVES)):
        assert judged(world, both, f"{{uid: {OTHER}}}", client(owner)) is LICENSED


def test_deeper_than_the_kernel_looks_every_such_exclusion_holds(world: World) -> None:
    deep = [(OTHER, OTHER)] * 7
    assert judged(world, f"{{uid: {EVE}}}", f"{{uid: {OTHER}}}", client(*deep)) is EXCLUDED
    assert judged(world, '{exe: "/bin/other"}', f"{{uid: {OTHER}}}", client(*deep)) is LICENSED


def test_a_license_does_not_go_to_who_is_in_a_namespace_of_a_licensed_user(world: World) -> None:
    for banned in (f"{{uid: {EVE}}}", "{uid: 1}"):
        assert judged(world, banned, "{uid: 1}", client((1, 1))) is not LICENSED


def test_a_principal_that_is_licensed_and_excluded_means_more_in_the_exclusion(world: World) -> None:
    text = "{uid: 1700}"
    assert judged(world, text, "{uid: [1700, 1701]}", client(own_pids=True)) is EXCLUDED
    assert judged(world, "{uid: 1}", text, client(own_pids=True)) is UNLICENSED
    assert judged(world, "{uid: 1}", '{uid: 1700, container: "*"}', client(own_pids=True)) is LICENSED


GIVEN = {EVE: (range(165537, 165540), range(4294967290, 4294967295))}
THEIRS = (165537, 165539, 4294967290, 4294967294)
OTHERS = (165536, 165540, 4294967289)


@pytest.mark.parametrize("banned", [f"{{uid: {EVE}}}", f"{{gid: {EVES}}}", f"{{uid: {EVE}, gid: {EVES}}}"])
@pytest.mark.parametrize("uid", [*THEIRS, *OTHERS])
def test_a_subordinate_id_is_excluded_with_whose_it_is(world: World, banned: str, uid: int) -> None:
    everybody = f"{{uid: [{OTHER}, {uid}]}}"
    expected = EXCLUDED if uid in THEIRS else LICENSED
    known = {"members": {EVES: frozenset({EVE})}, "subordinates": GIVEN}
    for one in (client((OTHER, OTHER), uid=uid), client((uid, OTHER), (OTHER, OTHER))):
        assert judged(world, banned, everybody, one, **known) is LICENSED, "there, others gave it"
    for one in (client(uid=uid), client((uid, OTHER)), client((OTHER, OTHER), (uid, OTHER))):
        assert judged(world, banned, everybody, one, **known) is expected
        assert judged(world, banned, everybody, one) is LICENSED, "nobody was given it"
    assert judged(world, "{uid: 1}", f"{{uid: {EVE}}}", client(uid=uid), **known) is UNLICENSED


def test_what_the_groups_of_whose_it_is_say_is_no_word_of_his_name(world: World) -> None:
    """Both have to be excluded where a selector speaks of both."""
    both, known = f"{{uid: {EVE}, gid: {EVES}}}", {"subordinates": GIVEN}
    for uid in (OTHER, *THEIRS):
        assert judged(world, both, f"{{uid: {uid}}}", client(uid=uid, gid=EVES), **known) is (
            LICENSED if uid == OTHER else EXCLUDED
        )
        assert judged(world, both, f"{{uid: {uid}}}", client(uid=uid), **known) is LICENSED
    member = {"members": {EVES: frozenset({OTHER})}, "subordinates": {OTHER: GIVEN[EVE]}}
    assert judged(world, both, f"{{uid: {THEIRS[0]}}}", client(uid=THEIRS[0]), **member) is LICENSED


def test_a_member_of_an_excluded_group_who_left_it_in_a_namespace_of_his_is_excluded(world: World) -> None:
    known = {"members": {EVES: frozenset({EVE})}}
    for banned in (f"{{gid: {EVES}}}", f"{{gid: {EVES}, uid: [{EVE}, {OTHER}]}}"):
        for owners in (((EVE, OTHER),), ((OTHER, OTHER), (EVE, OTHER)), ((EVE, OTHER), (OTHER, OTHER))):
            assert judged(world, banned, f"{{uid: {OTHER}}}", client(*owners), **known) is EXCLUDED
            assert judged(world, banned, f"{{uid: {OTHER}}}", client(*owners)) is LICENSED
        # on the host, the groups of a process are what it is judged by
        assert judged(world, banned, f"{{uid: {EVE}}}", client(uid=EVE), **known) is LICENSED
    assert judged(world, "{gid: 1}", f"{{gid: {EVES}}}", client((EVE, OTHER)), **known) is UNLICENSED
