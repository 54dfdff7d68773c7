"""A stranger's listener stays one where nobody can be seen to hold it, and where somebody is made to hold it
who would be an owner."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from agent import abi
from agent.kernel.pins import Pins
from agent.system.bpf_map import Map
from tests.e2e.test_local_routes import stopped
from tests.e2e.test_strangers import PORT, reach
from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.users_network import users_network
from tests.fixtures.waiting import wait_for
from tests.kernel.tc_world import namespace

FREE = PORT + 1
"""Whoever listened at the other may still be ending."""
POLICY = f"""\
version: 1
services:
  db:
    product: acme
    owner: [{{unit: db.service}}, {{uid: 0}}]
    ports: [{{port: {PORT}, class: internal}}, {{port: {FREE}, class: internal}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]}}
enforcement: {{default: enforce}}
"""
LISTEN = f"""
import ctypes, socket, struct, subprocess, sys, threading
def listener():
    one = socket.socket()
    one.setsockopt(socket.SOL_IP, 51, struct.pack("=I", {PORT} << 16 | {PORT}))  # IP_LOCAL_PORT_RANGE
    one.bind(("127.0.0.1", 0))
    one.listen()
    return one
def in_flight():
    one, pair = listener(), socket.socketpair()
    socket.send_fds(pair[0], [b"x"], [one.fileno()])
    one.close()
    return pair
def in_a_thread():
    def listen():
        ctypes.CDLL(None).unshare(0x400)  # CLONE_FILES
        held = listener()
        ready.set()
        threading.Event().wait()
    ready = threading.Event()
    threading.Thread(target=listen, daemon=True).start()
    ready.wait()
def beside_a_setuid_child():
    one = listener()
    child = subprocess.Popen([sys.argv[2], "600"], stdin=one.fileno())
    return one, child
held = globals()[sys.argv[1]]()
print("ready", flush=True)
sys.stdin.read()
if isinstance(held, tuple) and isinstance(held[1], subprocess.Popen):
    held[1].kill()
"""


WAYS = ("in_flight", "in_a_thread", "beside_a_setuid_child")


def test_who_is_not_seen_to_hold_a_listener_does_not_change_whose_it_is(shared_lab: Lab) -> None:
    lab = shared_lab
    program = lab.directory / "wait-as-root"
    shutil.copy2(shutil.which("sleep") or "/bin/sleep", program)
    program.chmod(0o4755)
    with lab.agent(POLICY) as agent:
        agent.wait_until_it_stands_by()
        for how in WAYS:
            stranger = lab.run(
                lab.host,
                [processes.PYTHON, "-Ic", LISTEN, how, program],
                uid=1202,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert stranger.stdout
            assert stranger.stdout.readline() == "ready\n"
            for _ in range(2):
                agent.control("POST", "/v1/reload")  # a look
                assert (how, reach(lab)) == (how, "ECONNREFUSED")
            processes.end(stranger)


def places(owners: Map) -> set[int]:
    """Namespaces in which somebody is noted to listen on the port."""
    keys = (abi.OwnerKey.from_buffer_copy(key) for key in owners)
    return {one.netns for one in keys if one.port == FREE}


@pytest.mark.parametrize("how", ["in_flight", "in_a_thread"])
def test_of_one_who_hid_before_the_agent_came_nobody_knows(lab: Lab, how: str) -> None:
    """Not covered: the kernel has not seen him listen, and nobody is found to hold it. In a lab of its own:
    programs outlive the agent that loaded them."""
    stranger = lab.run(
        lab.host,
        [processes.PYTHON, "-Ic", LISTEN, how],
        uid=1202,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert stranger.stdout
    assert stranger.stdout.readline() == "ready\n"
    with lab.agent(POLICY) as agent:
        agent.wait_until_it_stands_by()
        agent.control("POST", "/v1/reload")
        assert reach(lab) == "ok"
        listed = [one for one in agent.listeners() if one["port"] == PORT]
        assert [(one["states"], one["owners"]) for one in listed] == [(["owner_unknown"], [])]
    processes.end(stranger)


def test_a_user_fills_no_table_from_a_network_of_his_own(shared_lab: Lab) -> None:
    """It has room for 16384 places, and whoever listens on the host must be in it."""
    lab = shared_lab
    with lab.agent(POLICY) as agent, users_network(lab, 1202) as place:
        owners = Pins(agent.files.pins).open_map("owners")
        with stopped(agent):
            servers = [
                lab.serve(where, "127.0.0.1", FREE, uid=uid) for where, uid in ((place, 1202), (lab.host, 0))
            ]
            # the programs hear of listen() when others see it listen already
            wait_for(lambda: namespace(lab.host).cookie in places(owners), "the host's listener is noted")
        assert places(owners) == {namespace(lab.host).cookie}
        for server in servers:
            processes.end(server)
