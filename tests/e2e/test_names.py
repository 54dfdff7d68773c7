"""Who a process was when it connected, and no more than is known of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import matching, told
from tests.fixtures.waiting import wait_for

PORT = 7661
POLICY = f"""\
version: 1
services:
  db: {{product: acme, ports: [{{port: {PORT}, class: internal}}]}}
  shared: {{product: acme, ports: [{{port: {PORT + 1}, class: internal}}]}}
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]}}
"""
IN_MEMORY = """
import os, sys
fd = os.memfd_create("tool")
with open(sys.argv[1], "rb") as source:
    os.write(fd, source.read())
os.execve(fd, ["tool", *sys.argv[2:]], {})
"""
SHARING_SERVER = """
import signal, socket, sys
taken = 0
def end(*_):
    print(taken, flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
print("listening", flush=True)
while True:
    connected, _ = server.accept()
    taken += 1
    connected.send(b"x")
    connected.recv(1)
    while connected.recv(1):
        pass
    connected.close()
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    shared_lab.serve(shared_lab.host, "127.0.0.1", PORT)
    settings = {"events": {"flows": True}, "intervals": {"reconcile": 1}}
    with shared_lab.agent(POLICY, settings) as running:
        yield running


def test_a_process_that_became_another_keeps_its_name_and_not_the_others_arguments(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    script = f"exec 3<>/dev/tcp/127.0.0.1/{PORT}; exec sleep 600"
    process = shared_lab.run(shared_lab.host, ["/bin/bash", "-c", script])
    opened = told(agent, {"type": "flow_open", "consumer.pid": process.pid})
    wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "it is another program")
    listed = wait_for(
        lambda: [one for one in agent.flows() if one["consumer"].get("pid") == process.pid], "it is listed"
    )
    processes.end(process)
    closed = told(agent, {"type": "flow_close", "consumer.pid": process.pid})
    for one in (opened, *listed, closed):
        consumer = one["consumer"]
        assert consumer["exe"].endswith("/bash")
        assert consumer.get("args", ["/bin/bash", "-c", script]) == ["/bin/bash", "-c", script]
        assert consumer.get("comm", "bash") == "bash"


def test_arguments_that_the_open_had_the_close_has_too(shared_lab: Lab, agent: RunningAgent) -> None:
    tool = shared_lab.executable("opt/tool")
    made = shared_lab.load(shared_lab.host, "127.0.0.1", PORT, program=tool)
    closed = told(agent, {"type": "flow_close", "consumer.pid": made["pid"]})
    assert closed["consumer"]["args"] == [str(tool), "127.0.0.1", str(PORT), "--connections", "1"]


def test_a_program_in_memory_has_a_name(shared_lab: Lab, agent: RunningAgent) -> None:
    load = shared_lab.executable("load")
    argv = [sys.executable, "-ISc", IN_MEMORY, load, "127.0.0.1", str(PORT)]
    process = shared_lab.run(shared_lab.host, argv)
    process.wait(60)
    for kind in ("use", "flow_open", "flow_close"):
        event = told(agent, {"type": kind, "consumer.pid": process.pid})
        assert event["consumer"]["exe"] == "memfd:"


def test_a_path_that_is_too_deep_does_not_look_as_if_it_began_there(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    tool = shared_lab.executable("/".join(f"d{number}" for number in range(30)) + "/tool")
    made = shared_lab.load(shared_lab.host, "127.0.0.1", PORT, program=tool)
    exe = told(agent, {"type": "use", "consumer.pid": made["pid"]})["consumer"]["exe"]
    assert exe == str(tool) or (exe.startswith("…/") and str(tool).endswith(exe[1:]))


def test_bytes_that_are_not_utf8_are_written_alike_wherever_they_are(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    tool = shared_lab.executable("opt/caf\udce9")
    made = shared_lab.load(shared_lab.host, "127.0.0.1", PORT, program=tool)
    consumer = told(agent, {"type": "use", "consumer.pid": made["pid"]})["consumer"]
    assert consumer["exe"].endswith("/opt/caf\\xe9")
    assert consumer["args"][0].endswith("/opt/caf\\xe9")
    assert consumer["comm"] == "caf\\xe9"
    assert not matching(agent, {"consumer.comm": "caf\ufffd"})


def test_the_owner_is_named_to_whom_comes_from_outside_the_scope(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    shared_lab.load(shared_lab.host, "127.0.0.1", PORT, cgroup=None)
    event = told(agent, {"type": "use", "consumer.identity": "address"})
    assert event["owner"]["exe"] == str(shared_lab.executable("load"))


def test_each_of_several_that_share_a_port_owns_its_own_connections(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    argv = [sys.executable, "-ISc", SHARING_SERVER, str(PORT + 1)]
    servers = [shared_lab.run(shared_lab.host, argv, stdout=subprocess.PIPE) for _ in range(2)]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
    for _ in range(20):
        shared_lab.load(shared_lab.host, "127.0.0.1", PORT + 1, options=("--hold", "300"))
    owned = Counter(
        event["owner"].get("pid") for event in wait_for(lambda: _opened(agent, 20), "each flow is told")
    )
    served = {server.pid: _served(server) for server in servers}
    assert owned == Counter(served)
    assert sum(served.values()) == 20


def _opened(agent: RunningAgent, count: int) -> list[dict[str, Any]]:
    found = matching(agent, {"type": "flow_open", "tuple.dport": PORT + 1})
    return found if len(found) == count else []


def _served(server: subprocess.Popen[str]) -> int:
    """How many connections it has taken; it ends with that."""
    server.terminate()
    out, _ = server.communicate(timeout=60)
    return int(out)
