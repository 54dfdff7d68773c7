"""In enforce, a declared port is served by its owner and by nobody else."""

from __future__ import annotations

import subprocess

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import told

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


def bind(lab: Lab, place: Namespace, address: str, port: int, **run: object) -> str:
    family = "AF_INET6" if ":" in address else "AF_INET"
    argv = [processes.PYTHON, "-Ic", BIND, address, str(port), family]
    return lab.call(place, argv, **run).stdout.strip()  # type: ignore[arg-type]


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
