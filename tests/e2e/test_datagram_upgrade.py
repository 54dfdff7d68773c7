"""From one version to the next while a port of UDP enforces under traffic."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures import datagrams, processes, versions
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections
from tests.fixtures.waiting import wait_for

LICENSED, UNLICENSED, PORT = 1001, 1002, 5320
STARTED_WITHIN_S = 180
"""An upgrade compiles everything before it changes anything."""
ASK = """
import errno, json, os, socket, sys, time
way, address, port, flag = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.settimeout(0.2)
said = {}
if way == "connected":
    try:
        sender.connect((address, port))
    except OSError:
        way = "refused"
while os.path.exists(flag):
    try:
        if way == "refused":
            sender.connect((address, port))
        elif way == "connected":
            sender.send(b"x")
        else:
            sender.sendto(b"x", (address, port))
        sender.recv(10)
        name = "answered"
    except TimeoutError:
        name = "silence"
    except OSError as error:
        name = errno.errorcode[error.errno]
    said[name] = said.get(name, 0) + 1
    time.sleep(0.01)  # its pace
print(json.dumps(said))
"""


@pytest.fixture
def agent(lab: Lab) -> Iterator[RunningAgent]:
    datagrams.serve(lab, lab.host, "0.0.0.0", PORT)
    with lab.agent(datagrams.policy(PORT, licensed=LICENSED), start=False) as running:
        running.start(timeout_s=STARTED_WITHIN_S)
        yield running


def test_nothing_gets_through_and_nothing_counts_twice(lab: Lab, agent: RunningAgent) -> None:
    """Every table of it has another shape. What was said of a sender goes on."""
    following = versions.changed(lab.directory, "next", versions.every_shape)
    going = lab.directory / "going"
    going.touch()

    def ask(way: str, uid: int, *, remote: bool = False) -> subprocess.Popen[str]:
        place, address = (lab.remote, "10.77.2.1") if remote else (lab.host, "127.0.0.1")
        return lab.run(place, [processes.PYTHON, "-ISuc", ASK, way, address, str(PORT), going], uid=uid)

    licensed = [ask(way, LICENSED) for way in ("connected", "by address")]
    unlicensed = [ask(way, UNLICENSED) for way in ("connected", "by address")]
    elsewhere = ask("by address", UNLICENSED, remote=True)
    counts = {("loopback", "allowed"): 2, ("loopback", "denied"): 2, ("remote", "denied"): 1}
    wait_for(lambda: connections(agent, "dns") == counts, "each has sent")
    agent.terminate()
    agent.start(
        command=following.command("run", "--config", agent.files.config),
        env=following.env,
        timeout_s=STARTED_WITHIN_S,
    )
    more = [ask(way, LICENSED) for way in ("connected", "by address")]
    counts["loopback", "allowed"] = 4
    wait_for(lambda: connections(agent, "dns") == counts, "the next version counts on")
    going.unlink()
    for one in (*licensed, *more):
        said = json.loads(one.communicate(timeout=20)[0])
        assert set(said) == {"answered"}, said
    for one in (*unlicensed, elsewhere):
        said = json.loads(one.communicate(timeout=20)[0])
        assert "answered" not in said, said
    assert connections(agent, "dns") == counts
