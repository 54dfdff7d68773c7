"""Strangers who share a place, and listen there at the same moment, vouch for one another by nothing."""

from __future__ import annotations

import subprocess

from tests.e2e.test_strangers import POLICY, PORT
from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.waiting import wait_for

ROUNDS = 200
LISTEN_AT_ONCE = f"""
import mmap, os, socket, sys
said = memoryview(mmap.mmap(-1, 64)).cast("Q")
cpus = sorted(os.sched_getaffinity(0))
def bound():
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", {PORT}))
    return one
def wait(place, number):
    while said[place] != number:
        os.sched_yield()
first, second = bound(), bound()
if os.fork() == 0:
    os.sched_setaffinity(0, cpus[-1:])
    for number in range(1, {ROUNDS} + 1):
        wait(0, number)
        second.listen()
        said[1] = number
        wait(2, number)
        second.shutdown(socket.SHUT_RDWR)
        said[3] = number
    os._exit(0)
os.sched_setaffinity(0, cpus[:1])
print("bound", flush=True)
sys.stdin.readline()
reached = 0
for number in range(1, {ROUNDS} + 1):
    said[0] = number
    for _ in range(number % 40):
        pass
    first.listen()
    wait(1, number)
    with socket.socket() as consumer:
        reached += consumer.connect_ex(("127.0.0.1", {PORT})) == 0
    first.shutdown(socket.SHUT_RDWR)
    said[2] = number
    wait(3, number)
print(reached, flush=True)
"""


def test_two_strangers_who_listen_at_once_are_not_reached(shared_lab: Lab) -> None:
    lab = shared_lab
    with lab.agent(POLICY.replace("default: enforce", "default: observe")) as agent:
        agent.wait_until_it_stands_by()
        both = lab.run(
            lab.host,
            [processes.PYTHON, "-Ic", LISTEN_AT_ONCE],
            uid=1202,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert both.stdin
        assert both.stdout
        assert both.stdout.readline() == "bound\n", "while nothing was enforced"
        agent.set_policy(POLICY)
        wait_for(lambda: agent.total("licet_enforcing", service="db") == 1, "it enforces")
        agent.kill9()
        both.stdin.write("go\n")
        both.stdin.flush()
        assert both.stdout.readline() == "0\n"
        processes.end(both)
        agent.start()
