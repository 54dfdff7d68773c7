"""Owners by exe, user and group are processes outside containers; of a service at one, those in it."""

from __future__ import annotations

import shutil

import pytest

from tests.fixtures import processes
from tests.fixtures.crun import Runtime
from tests.fixtures.lab import Lab
from tests.fixtures.saying import told
from tests.fixtures.waiting import wait_for

OWNER, HERE, THERE, OTHER = 1201, 7341, 7342, 7343
POLICY = f"""\
version: 1
services:
  here: {{product: acme, owner: [{{uid: {OWNER}}}], ports: [{{port: {HERE}, class: internal}}]}}
  there:
    product: acme
    at: {{container: box}}
    owner: [{{uid: 0}}]
    ports: [{{port: {THERE}, class: internal}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, principals: [anyone]}}]}}
enforcement: {{default: enforce}}
"""
BIND = """
import errno, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    server.bind(("0.0.0.0", int(sys.argv[1])))
    server.listen()
    print("bound")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
AS_OWNER = ("setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", "--")
PYTHON = (processes.PYTHON, "-Ic", BIND)


@pytest.mark.skipif(not shutil.which("crun"), reason="crun is not installed")
def test_only_owners_outside_or_of_the_container_may_bind(shared_lab: Lab) -> None:
    lab, runtime = shared_lab, Runtime(shared_lab)

    def bind(*argv: str, port: int = HERE, inside: bool = False) -> str:
        place = lab.container if inside else lab.host
        return lab.call(place, [*argv, *PYTHON, str(port)]).stdout.strip()

    with lab.agent(POLICY, settings={"containers": runtime.settings}) as agent:
        assert bind(*AS_OWNER) == "bound"
        assert bind("unshare", "-p", "-f", *AS_OWNER) == "EPERM", "in a container"
        assert bind(*AS_OWNER, "unshare", "-Urpf") == "bound", "a user's own namespaces"
        told(agent, {"type": "listener", "reason": "owner_mismatch", "enforced": True, "port": HERE})
        # the container is there before it serves what is declared
        box = runtime.start("box", ["/load", "--serve", "0.0.0.0", str(OTHER)], cgroup="box")
        wait_for(
            lambda: bind(port=THERE, inside=True) == "EPERM", "a process beside the container is no owner"
        )
        serve = runtime.command_inside("box", "/load", "--serve", "0.0.0.0", str(THERE))
        inside = lab.run(lab.host, serve, cgroup=None)
        wait_for(
            lambda: lab.load(lab.container, "127.0.0.1", THERE)["ok"] == 1, "one in the container serves it"
        )
        for process in (inside, box):
            processes.end(process)
