"""In enforce, a declared port is served by its owner and by nobody else."""

from __future__ import annotations

import os
import subprocess

from tests.fixtures import cgroups, processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, told

POLICY = """\
version: 1
services:
  db: {product: acme, owner: [{unit: db.service}, {uid: 1201}], ports: [{port: 7321, class: internal}]}
  api: {product: acme, ports: [{port: 7322, class: internal}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [anyone]}]}
enforcement: {default: enforce}
"""
BIND = """
import errno, socket, sys
try:
    server = socket.socket(getattr(socket, sys.argv[3]))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((sys.argv[1], int(sys.argv[2])))
    server.listen()
    print("bound")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
SHARING = """
import errno, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
try:
    server.bind((sys.argv[1], int(sys.argv[2])))
    server.listen()
    print("bound", flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
sys.stdin.read()
"""
RAW = """
import ctypes, errno, socket, struct, sys
call, family, kind, address_family, address, port = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
one = socket.socket(getattr(socket, family), getattr(socket, kind))
packed = struct.pack("=H", getattr(socket, address_family)) + struct.pack("!H", int(port))
v6 = ":" in address
packed += bytes(4) + socket.inet_pton(socket.AF_INET6, address) if v6 else socket.inet_aton(address)
packed = packed.ljust(28, b"\\x2a")  # bytes behind it, as an IPv6 address would have
failed = getattr(libc, call)(one.fileno(), packed, len(packed))
print(errno.errorcode[ctypes.get_errno()] if failed else "done")
"""
TWICE = """
import errno, socket, sys
one = socket.socket()
one.bind(("127.0.0.1", 0))
try:
    one.bind(("127.0.0.1", int(sys.argv[1])))
    print("bound")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def bind(lab: Lab, place: Namespace, address: str, port: int, **run: object) -> str:
    family = "AF_INET6" if ":" in address else "AF_INET"
    argv = [processes.PYTHON, "-Ic", BIND, address, str(port), family]
    return lab.call(place, argv, **run).stdout.strip()  # type: ignore[arg-type]


def raw(lab: Lab, *argv: str, uid: int = 1202) -> str:
    """bind() or connect() with just these bytes: call, family and type of the socket, family, address and
    port in the sockaddr."""
    return lab.call(lab.host, [processes.PYTHON, "-Ic", RAW, *argv], uid=uid).stdout.strip()


def refused(agent: RunningAgent, service: str, gate: str) -> float:
    return agent.total("licet_refused_total", service=service, gate=gate)


def test_only_the_owner_may_bind(shared_lab: Lab) -> None:
    host = shared_lab.host
    with shared_lab.agent(POLICY) as agent:
        for address in ("127.0.0.1", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1", host.v4, host.v6):
            assert bind(shared_lab, host, address, 7321, uid=1202) == "EPERM", address
            assert bind(shared_lab, host, address, 7321, cgroup="db.service") == "bound", address
        assert bind(shared_lab, host, "127.0.0.1", 7321, uid=1201) == "bound"
        assert bind(shared_lab, host, "127.0.0.1", 7322, uid=1202) == "bound", "it names no owner"
        assert bind(shared_lab, host, "127.0.0.1", 7323, uid=1202) == "bound", "no service declares it"
        assert bind(shared_lab, shared_lab.container, "0.0.0.0", 7321, uid=1202) == "bound", "not the host's"
        said = told(agent, {"type": "listener", "reason": "owner_mismatch", "enforced": True})
        assert (said["port"], said["address"], said["owner"]["uid"]) == (7321, "127.0.0.1", 1202), "told once"
        assert (said["service"], said["class"], said["protocol"]) == ("db", "internal", "tcp")
        assert said["rule"].endswith("policy.yaml:3"), "where its owners are named"
        assert_observing_refuses_nothing(shared_lab, agent)


def assert_observing_refuses_nothing(lab: Lab, agent: RunningAgent) -> None:
    agent.set_policy(POLICY.replace("default: enforce", "default: observe"))
    assert bind(lab, lab.host, "127.0.0.1", 7321, uid=1202) == "bound"


def test_reuse_port_does_not_let_a_stranger_in_beside_the_owner(shared_lab: Lab) -> None:
    """SO_REUSEPORT asks for nothing but the same user."""
    lab, host = shared_lab, shared_lab.host
    argv = [processes.PYTHON, "-Ic", SHARING, "127.0.0.1", "7321"]
    with lab.agent(POLICY):
        owner = lab.run(host, argv, uid=1300, cgroup="db.service", stdin=subprocess.PIPE)
        assert owner.stdout
        assert owner.stdout.readline() == "bound\n"
        hijacker = lab.run(host, argv, uid=1300, cgroup="cron.service", stdin=subprocess.PIPE)
        assert hijacker.stdout
        assert hijacker.stdout.readline() == "EPERM\n"
        processes.end(owner)


def test_a_server_that_restarts_takes_its_port_again(shared_lab: Lab) -> None:
    with shared_lab.agent(POLICY) as agent:
        agent.kill9()
        for _ in range(2):
            server = shared_lab.serve(shared_lab.host, "::", 7321, cgroup="db.service")
            assert shared_lab.load(shared_lab.host, "127.0.0.1", 7321, connections=3)["ok"] == 3
            processes.end(server)
        assert bind(shared_lab, shared_lab.host, "::", 7321, uid=1202) == "EPERM"
        agent.start()


def test_an_address_is_what_the_hook_takes_it_for(shared_lab: Lab) -> None:
    """Neither the family in the sockaddr nor the socket's says it: bind() takes AF_UNSPEC for AF_INET."""
    with shared_lab.agent(POLICY) as agent:
        for family in ("AF_UNSPEC", "AF_INET"):
            assert raw(shared_lab, "bind", "AF_INET", "SOCK_STREAM", family, "0.0.0.0", "7321") == "EPERM"
            owner = raw(shared_lab, "bind", "AF_INET", "SOCK_STREAM", family, "0.0.0.0", "7321", uid=1201)
            assert owner == "done", family
        assert refused(agent, "db", "bind") == 2


def test_what_the_kernel_refuses_by_itself_is_no_violation(shared_lab: Lab) -> None:
    with shared_lab.agent(
        POLICY.replace("7322", "322").replace(
            "ports: [{port: 322", "owner: [{uid: 1201}], ports: [{port: 322"
        )
    ) as agent:
        for socket_family, family, address in (
            ("AF_INET", "AF_UNSPEC", "127.0.0.1"),
            ("AF_INET", "AF_INET6", "::1"),
            ("AF_INET6", "AF_INET", "127.0.0.1"),
            ("AF_INET6", "AF_UNSPEC", "::1"),
        ):
            said = raw(shared_lab, "bind", socket_family, "SOCK_STREAM", family, address, "7321")
            assert said == "EAFNOSUPPORT", (socket_family, family)
        twice = [processes.PYTHON, "-Ic", TWICE, "7321"]
        assert shared_lab.call(shared_lab.host, twice, uid=1202).stdout.strip() == "EINVAL"
        assert bind(shared_lab, shared_lab.host, "127.0.0.1", 322, uid=1202) == "EACCES"
        assert bind(shared_lab, shared_lab.host, "127.0.0.1", 322) == "EPERM", "root could"
        server = shared_lab.serve(shared_lab.host, "0.0.0.0", 7321, cgroup="db.service")
        for address in ("0.0.0.0", "127.0.0.1", shared_lab.host.v4):
            assert bind(shared_lab, shared_lab.host, address, 7321, uid=1202) == "EADDRINUSE", address
        processes.end(server)
        assert (refused(agent, "db", "bind"), refused(agent, "api", "bind")) == (0, 1)


def test_a_connect_of_a_family_that_the_kernel_refuses_is_no_attempt(shared_lab: Lab) -> None:
    policy = POLICY.replace("port: 7322", "port: 7322, protocol: udp").replace(
        "enforcement:",
        "restrictions: [{exclude: strangers, target: api}, {exclude: strangers, target: db}]\n"
        "principals: {strangers: [{uid: 1202}]}\nenforcement:",
    )
    with shared_lab.agent(policy) as agent:
        for socket_family, family, address in (
            ("AF_INET6", "AF_INET", "127.0.0.1"),
            ("AF_INET", "AF_INET6", "::1"),
            ("AF_INET6", "AF_UNIX", "::1"),
        ):
            said = raw(shared_lab, "connect", socket_family, "SOCK_STREAM", family, address, "7321")
            assert said == "EAFNOSUPPORT", (socket_family, family)
        assert connections(agent, "db") == {}
        as_ipv4 = raw(shared_lab, "connect", "AF_INET6", "SOCK_DGRAM", "AF_INET", "127.0.0.1", "7322")
        assert as_ipv4 == "EPERM", "an IPv6 UDP socket takes an IPv4 address, in connect4"
        assert connections(agent, "api") == {("loopback", "denied"): 1}


def test_an_owner_that_is_in_doubt_is_as_good_as_a_consumer_that_is(shared_lab: Lab) -> None:
    """Too deep to see all its cgroups: allowed or refused as the service says of those."""
    deep = "cron.service/" + "/".join(str(level) for level in range(13))
    denies = POLICY.replace("ports: [{port: 7321", "on_unresolved: deny, ports: [{port: 7321")
    with shared_lab.agent(denies) as agent:
        assert bind(shared_lab, shared_lab.host, "127.0.0.1", 7321, uid=1202, cgroup=deep) == "EPERM"
        assert bind(shared_lab, shared_lab.host, "127.0.0.1", 7321, uid=1201, cgroup=deep) == "bound"
        assert refused(agent, "db", "bind") == 1


def test_who_opens_sockets_for_others_may(shared_lab: Lab) -> None:
    """systemd makes a unit's sockets in pid 1, or in a child in the unit's own cgroup."""
    lab, host = shared_lab, shared_lab.host
    given = lab.cgroup("user.slice/user@1202.service")
    os.chown(cgroups.directory(given), 1202, 1202)
    with lab.agent(POLICY):
        assert bind(lab, host, "127.0.0.1", 7321, cgroup="system.slice/db.socket") == "bound"
        assert bind(lab, host, "127.0.0.1", 7321, cgroup="db.socket") == "bound", "in no slice"
        assert bind(lab, host, "127.0.0.1", 7321, cgroup="system.slice/adb.socket", uid=1202) == "EPERM"
        for forged in (
            "user.slice/user@1202.service/db.socket",
            "user.slice/user@0.service/db.socket",  # systemd --user of root
            "cron.service/db.socket",
            "a.scope/system.slice/db.socket",
            "system.slice/db.sockets",
            "socket",
        ):
            assert bind(lab, host, "127.0.0.1", 7321, cgroup=forged) == "EPERM", forged
        long_name = "n" * 240 + ".socket"
        assert bind(lab, host, "127.0.0.1", 7321, cgroup=f"system.slice/{long_name}") == "bound"


def test_a_container_has_no_system_sockets(shared_lab: Lab) -> None:
    """Its root is not the host's, whatever its cgroup is called."""
    argv = [processes.PYTHON, "-Ic", BIND, "127.0.0.1", "7321", "AF_INET"]
    with shared_lab.agent(POLICY):
        for own in ("--pid --fork", "--user --map-root-user"):
            said = shared_lab.call(
                shared_lab.host, ["unshare", *own.split(), *argv], cgroup="system.slice/db.socket"
            )
            assert said.stdout.strip() == "EPERM", own


def test_the_same_port_of_udp_is_not_in_use_where_somebody_listens_on_that_of_tcp(shared_lab: Lab) -> None:
    """DNS: refused by us, and told, not as the kernel would."""
    lab, udp = shared_lab, "{port: 7321, class: internal, protocol: udp}"
    both = POLICY.replace(
        "ports: [{port: 7321, class: internal}]", f"ports: [{{port: 7321, class: internal}}, {udp}]"
    )
    assert udp in both
    with lab.agent(both) as agent:
        server = lab.serve(lab.host, "127.0.0.1", 7321, uid=1201)
        before = refused(agent, "db", "bind")
        said = raw(lab, "bind", "AF_INET", "SOCK_DGRAM", "AF_INET", "127.0.0.1", "7321")
        assert (said, refused(agent, "db", "bind") - before) == ("EPERM", 1)
        said = raw(lab, "bind", "AF_INET", "SOCK_STREAM", "AF_INET", "127.0.0.1", "7321")
        assert (said, refused(agent, "db", "bind") - before) == ("EADDRINUSE", 1)
        processes.end(server)
