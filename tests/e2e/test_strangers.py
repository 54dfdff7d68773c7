"""In enforce, who listens on a declared port and is no owner of it is not reached there: whatever way he came
by the port without asking for it by number."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import Counts, connections, told, violations
from tests.fixtures.waiting import wait_for

PORT = 40077
POLICY = f"""\
version: 1
services:
  db:
    product: acme
    owner: [{{unit: db.service}}, {{uid: 1201}}]
    ports: [{{port: {PORT}, class: internal}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]}}
enforcement: {{default: enforce}}
"""
LISTEN = f"""
import json, socket, struct, sys
RANGE = 51  # IP_LOCAL_PORT_RANGE
how = json.loads(sys.argv[1])
family = socket.AF_INET6 if ":" in how["address"] else socket.AF_INET
def open():
    one = socket.socket(family, socket.SOCK_STREAM, 262 if how.get("mptcp") else 0)
    one.setsockopt(socket.SOL_IP, RANGE, struct.pack("=I", {PORT} << 16 | {PORT}))
    if how.get("share"):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if how.get("v6only"):
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if how.get("device"):
        one.setsockopt(socket.SOL_SOCKET, 25, how["device"].encode())  # SO_BINDTODEVICE
    if how.get("free"):
        one.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
    if how["bind"]:
        one.bind((how["address"], how["port"]))
    one.listen()
    return one
held = [open() for _ in range(how.get("times", 1))]
print(held[0].getsockname()[1], flush=True)
for line in sys.stdin:
    if line == "close\\n":
        held.pop().close()
    if line == "again\\n":
        held.append(open())
    if line == "accept\\n":
        held[-1].accept()
    print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def servers() -> Iterator[None]:
    """None is left for the next test."""
    yield
    while Server.started:
        Server.started.pop().end()


class Server:
    """A process that listens as it is told to."""

    started: ClassVar[list[Server]] = []

    def __init__(
        self, lab: Lab, place: Namespace, *, uid: int = 1202, cgroup: str = "", **how: object
    ) -> None:
        said = json.dumps({"address": "0.0.0.0", "bind": True, "port": 0, **how})
        argv = [processes.PYTHON, "-Ic", LISTEN, said]
        self.process = lab.run(
            place, argv, uid=uid, cgroup=cgroup, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.started.append(self)
        self._wait_for(str(how.get("port", PORT)))

    def _wait_for(self, line: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == f"{line}\n"

    def tell(self, what: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self._wait_for("done")

    def end(self) -> None:
        processes.end(self.process)


CONNECT = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
    print("ok")
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
"""


def reach(lab: Lab, address: str = "127.0.0.1", *, place: Namespace | None = None) -> str:
    """ "ok", or the name of the error."""
    argv = [processes.PYTHON, "-Ic", CONNECT, address, str(PORT)]
    return lab.call(place or lab.host, argv, uid=1300).stdout.strip()


def counted(agent: RunningAgent) -> tuple[float, float, Counts]:
    """Refusals at the socket, those for the sake of a stranger, and attempts by (origin, decision)."""
    return (
        agent.total("licet_refused_total", service="db", gate="socket"),
        agent.total("licet_violations_total", service="db", reason="owner_mismatch"),
        connections(agent, "db"),
    )


WAYS: Sequence[dict[str, object]] = (
    {"bind": False},
    {"address": "127.0.0.1"},
    {"address": "::", "bind": False},
    {"bind": False, "mptcp": True},
    {"bind": False, "share": True},
    {"address": "::ffff:127.0.0.1"},
)


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_whoever_got_the_port_from_the_kernel_is_not_reached(shared_lab: Lab, how: dict[str, object]) -> None:
    with shared_lab.agent(POLICY) as agent:
        Server(shared_lab, shared_lab.host, **how)
        assert [reach(shared_lab) for _ in range(3)] == ["ECONNREFUSED"] * 3
        event = told(agent, {"type": "listener", "reason": "owner_mismatch", "service": "db"})
        assert event["rule"].endswith("policy.yaml:5")
        refused, mismatches, attempts = counted(agent)
        assert (refused, mismatches) == (3, 1 + 3), "the listener, and each that would have come to it"
        assert attempts == {("loopback", "allowed"): 3}, "their own right is as it was"


def test_only_at_his_own_place(shared_lab: Lab) -> None:
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY) as agent:
        Server(lab, host, address="127.0.0.1", port=PORT, cgroup="db.service")
        stranger = Server(lab, host, address="127.0.0.2")
        assert reach(lab, "127.0.0.1") == "ok"
        assert reach(lab, "127.0.0.2") == "ECONNREFUSED"
        assert reach(lab, "127.0.0.1") == "ok"
        assert agent.total("licet_refused_total", service="db", gate="socket") == 1
        stranger.end()


def test_an_owner_on_ipv4_has_nothing_to_do_with_a_stranger_on_ipv6(shared_lab: Lab) -> None:
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY.replace("default: enforce", "default: observe")) as agent:
        Server(lab, host, address="0.0.0.0", port=PORT, cgroup="db.service")
        Server(lab, host, address="::", port=PORT, v6only=True)
        agent.set_policy(POLICY)
        wait_for(lambda: reach(lab, "::1") == "ECONNREFUSED", "it enforces")
        assert reach(lab, "127.0.0.1") == "ok"


def test_when_he_is_gone_the_owner_is_reached_at_once_with_no_daemon(shared_lab: Lab) -> None:
    """Also where the owner listens wider or narrower: nothing is left of a listener that is closed."""
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY) as agent:
        agent.kill9()
        for stranger_at, owner_at in (
            ("127.0.0.1", "0.0.0.0"),
            ("0.0.0.0", "127.0.0.1"),
            ("127.0.0.1", "::"),
        ):
            stranger = Server(lab, host, address=stranger_at)
            assert reach(lab) == "ECONNREFUSED", stranger_at
            stranger.end()
            owner = Server(lab, host, address=owner_at, port=PORT, cgroup="db.service")
            assert reach(lab) == "ok", owner_at
            owner.end()
            again = Server(lab, host, address=stranger_at)
            assert reach(lab) == "ECONNREFUSED", "nor does the owner's place protect who takes it"
            again.end()
        agent.start()


def test_one_of_several_strangers_that_closes_leaves_the_others_unreached(shared_lab: Lab) -> None:
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY.replace("default: enforce", "default: observe")) as agent:
        agent.wait_until_it_stands_by()
        several = [Server(lab, host, port=PORT, share=True) for _ in range(3)]
        agent.set_policy(POLICY)
        wait_for(lambda: reach(lab) == "ECONNREFUSED", "it enforces")
        agent.kill9()
        for one in reversed(several):
            assert reach(lab) == "ECONNREFUSED"
            one.end()
        owner = Server(lab, host, address="127.0.0.1", port=PORT, cgroup="db.service")
        assert reach(lab) == "ok"
        owner.end()
        agent.start()


def test_beside_the_owner_nobody_is_refused(shared_lab: Lab) -> None:
    """They can't be told apart before one of them has the connection."""
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY.replace("default: enforce", "default: observe")) as agent:
        owner = Server(lab, host, port=PORT, share=True, uid=1201)
        stranger = Server(lab, host, port=PORT, share=True, uid=1201, cgroup="x.service")
        stranger.end()
        owner.end()
        owner = Server(lab, host, port=PORT, share=True, uid=1300, cgroup="db.service")
        stranger = Server(lab, host, port=PORT, share=True, uid=1300, cgroup="x.service")
        agent.set_policy(POLICY)
        wait_for(lambda: agent.total("licet_enforcing", service="db") == 1, "it enforces")
        assert {reach(lab) for _ in range(16)} == {"ok"}
        assert agent.total("licet_refused_total", service="db", gate="socket") == 0
        owner.end()
        wait_for(lambda: reach(lab) == "ECONNREFUSED", "who is left is seen to be a stranger", timeout_s=20)


def test_at_another_device_than_the_owners_he_is_reached(shared_lab: Lab) -> None:
    """Not covered: a row is for an address and port, whatever the device."""
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY) as agent:
        agent.wait_until_it_stands_by()
        Server(lab, host, port=PORT, device="lo", cgroup="db.service")
        Server(lab, host, device="to-remote")
        assert reach(lab) == "ok"
        assert reach(lab, "10.77.2.1", place=lab.remote) == "ok"
        told(agent, {"type": "listener", "reason": "owner_mismatch", "service": "db"})


def test_a_remote_consumer_is_counted_by_its_own_right(shared_lab: Lab) -> None:
    lab = shared_lab
    with lab.agent(POLICY) as agent:
        Server(lab, lab.host, bind=False)
        said = [reach(lab, "10.77.2.1", place=lab.remote) for _ in range(2)]
        assert said == ["ECONNREFUSED"] * 2
        told(agent, {"type": "listener", "reason": "owner_mismatch", "service": "db"})
        refused, mismatches, attempts = counted(agent)
        assert (refused, mismatches, attempts) == (2, 1 + 2, {("remote", "allowed"): 2})


def test_in_observe_he_is_reported_and_reached(shared_lab: Lab) -> None:
    lab = shared_lab
    with lab.agent(POLICY.replace("default: enforce", "default: observe")) as agent:
        Server(lab, lab.host, bind=False)
        assert reach(lab) == "ok"
        told(agent, {"type": "listener", "reason": "owner_mismatch", "service": "db"})
        assert violations(agent, "db")["owner_mismatch"] == 1
        agent.set_policy(POLICY)
        wait_for(lambda: reach(lab) == "ECONNREFUSED", "it enforces")
        agent.set_policy(POLICY.replace("{uid: 1201}", "{uid: 1201}, {uid: 1202}"))
        wait_for(lambda: reach(lab) == "ok", "he is an owner now", timeout_s=20)
        agent.set_policy(POLICY)
        wait_for(lambda: reach(lab) == "ECONNREFUSED", "he is none any more", timeout_s=20)


def test_one_from_before_the_agent(shared_lab: Lab) -> None:
    lab = shared_lab
    stranger = Server(lab, lab.host, bind=False)
    with lab.agent(POLICY):
        wait_for(lambda: reach(lab) == "ECONNREFUSED", "user space has found him")
    stranger.end()


def test_an_address_that_was_not_there_when_he_bound_to_it(shared_lab: Lab) -> None:
    lab, host = shared_lab, shared_lab.host
    free = "10.77.9.9"
    with lab.agent(POLICY):
        Server(lab, host, address=free, port=PORT, free=True)
        lab.call(host, ["ip", "address", "add", f"{free}/32", "dev", "lo"], cgroup=None)
        try:
            wait_for(lambda: reach(lab, free) == "ECONNREFUSED", "at the address that is there now")
            again = [reach(lab, free) for _ in range(3)]
        finally:
            lab.call(host, ["ip", "address", "del", f"{free}/32", "dev", "lo"], cgroup=None)
        assert again == ["ECONNREFUSED"] * 3


def test_a_socket_unit_listens_for_its_service(shared_lab: Lab) -> None:
    """sd-listen, where systemd makes a child in the unit's cgroup for it."""
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY) as agent:
        Server(lab, host, address="127.0.0.1", port=PORT, uid=0, cgroup="system.slice/db.socket")
        assert {reach(lab) for _ in range(3)} == {"ok"}
        listing = wait_for(lambda: [one for one in agent.listeners() if one["port"] == PORT], "it is listed")
        assert [one["states"] for one in listing] == [["declared"]]
        assert "owner_mismatch" not in violations(agent, "db")


def test_a_preview_names_who_served_for_a_moment(shared_lab: Lab) -> None:
    """As `nginx -t` does, by root in a session: it would be EPERM."""
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY.replace("default: enforce", "default: observe")) as agent:
        tried = Server(lab, host, port=PORT, uid=0, cgroup="user.slice/session-1.scope")
        tried.end()

        def named() -> list[dict[str, object]]:
            found: list[dict[str, object]] = agent.control(
                "POST", "/v1/mode/preview", json={"mode": "enforce"}
            )["strangers"]
            return [one for one in found if one["how"] == "listened"]

        (one,) = wait_for(named, "it is named")
        assert (one["service"], one["user"], one["unit"], one["port"]) == (
            "db",
            "root",
            "session-1.scope",
            PORT,
        )
        assert str(one["exe"]).startswith("/usr/")
        assert one["times"] == 1
