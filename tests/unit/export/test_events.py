from agent.export.events import (
    consumer_fields,
    flow_fields,
    judged,
    kind_of,
    now_text,
    process_fields,
    tuple_fields,
)
from agent.model import Container, Decision, Origin, Process, Protocol, to_address
from tests.unit.export.fake_agent import CURL, DENIED, INTERNAL, POSTGRES, flow

LOOPBACK = to_address("127.0.0.1")


def test_a_violation_carries_who_what_where_and_why() -> None:
    event = judged(
        kind_of(DENIED.decision),
        INTERNAL,
        DENIED,
        consumer_fields(CURL, LOOPBACK),
        origin=Origin.LOOPBACK,
        rule={"license": "acme-2026", "entitlement": "app", "principal": "billing"},
        endpoints=tuple_fields(Protocol.TCP, LOOPBACK, 40000, LOOPBACK, 5432),
        owner=POSTGRES,
    )
    assert event.pop("time").endswith("Z")
    assert event == {
        "type": "violation",
        "decision": "denied",
        "reason": "unlicensed_principal",
        "enforced": False,
        "service": "orders-db",
        "class": "internal",
        "license": "acme-2026",
        "entitlement": "app",
        "principal": "billing",
        "origin": "loopback",
        "consumer": {
            "identity": "process",
            "pid": 4711,
            "start_boot_ns": 81_000_000_000,
            "comm": "curl",
            "exe": "/usr/bin/curl",
            "args": ["curl", "http://127.0.0.1:5432"],
            "uid": 1000,
            "user": "ann",
            "gid": 1000,
            "gids": [1000, 27],
            "cgroup": "/user.slice/user-1000.slice",
            "unit": "session-2.scope",
            "netns": 1,
        },
        "owner": {
            "pid": 812,
            "start_boot_ns": 9_000_000_000,
            "comm": "postgres",
            "exe": "/usr/lib/postgres",
            "uid": 0,
            "gid": 0,
        },
        "tuple": {"protocol": "tcp", "src": "127.0.0.1", "sport": 40000, "dst": "127.0.0.1", "dport": 5432},
    }


def test_only_what_is_denied_is_a_violation() -> None:
    assert [kind_of(decision) for decision in Decision] == ["use", "use", "use", "violation"]


def test_a_consumer_elsewhere_is_known_by_its_address_only() -> None:
    assert consumer_fields(None, to_address("2001:db8::7")) == {
        "identity": "address",
        "address": "2001:db8::7",
    }


def test_what_is_not_known_is_left_out_and_root_is_known() -> None:
    assert process_fields(Process()) == {}
    assert process_fields(Process(pid=1, uid=0, gid=0)) == {"pid": 1, "uid": 0, "gid": 0}


def test_a_connect_that_has_no_port_yet_shows_no_source() -> None:
    assert tuple_fields(Protocol.UDP, LOOPBACK, 0, to_address("::1"), 53) == {
        "protocol": "udp",
        "dst": "::1",
        "dport": 53,
    }


def test_a_flow_names_both_ends_and_who_accepted() -> None:
    fields = flow_fields(INTERNAL, flow(acceptor=Process(pid=813, comm="worker")))
    assert fields["consumer"]["pid"] == 4711
    assert fields["owner"]["pid"] == 812
    assert fields["acceptor"] == {"pid": 813, "comm": "worker"}
    assert (fields["service"], fields["class"], fields["decision"]) == ("orders-db", "internal", "denied")
    assert fields["tuple"]["dport"] == 5432


def test_times_are_utc_to_the_microsecond() -> None:
    assert now_text(1_767_225_600.25) == "2026-01-01T00:00:00.250000Z"


def test_a_process_in_a_container_tells_its_name_image_and_pod() -> None:
    inside = Container("0123456789abcdef", "cri-o", "server", "shop:1", "cart-0", "shop", known=True)
    assert process_fields(Process(container=inside)) == {
        "container": "server",
        "container_id": "0123456789abcdef",
        "runtime": "cri-o",
        "image": "shop:1",
        "pod": "shop/cart-0",
    }
    nameless = process_fields(Process(container=Container("0123456789abcdef")))
    assert nameless == {"container": "0123456789ab", "container_id": "0123456789abcdef"}
