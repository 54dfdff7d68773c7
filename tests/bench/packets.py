"""What the packet gate and the socket gate cost: ns for each packet, bulk transfers, many interfaces."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.bench.costs import Cost, cost_of, statistics_on
from tests.bench.daemon import cpu_s
from tests.bench.enforce import measure_refusals
from tests.bench.pinned import programs_named
from tests.bench.spread import paired_ratio, spread
from tests.fixtures.lab import Lab
from tests.fixtures.processes import PYTHON
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.waiting import wait_for

LICENSED_PORT, CLOSED_PORT, UNDECLARED_PORT, BULK_PORT = 7501, 7502, 7503, 7504
CONNECTIONS, ROUNDS = 3_000, 9
BULK_BYTES, BULK_ROUNDS = 2 << 30, 15
SETTLED_S = 0.7
"""What the daemon does when the mode changes is done by then."""
VETHS = 50
FOLLOWED_S = 5.0
POLICY = {
    "version": 1,
    "services": {
        "open": {"product": "a", "ports": [{"port": LICENSED_PORT, "class": "internal"}]},
        "bulk": {"product": "a", "ports": [{"port": BULK_PORT, "class": "internal"}]},
        "shut": {"product": "b", "ports": [{"port": CLOSED_PORT, "class": "internal"}]},
    },
    "principals": {"neighbours": [{"cidr": "10.77.2.0/24"}]},
    "licenses": [
        {
            "id": "a",
            "product": "a",
            "entitlements": [{"id": "use", "classes": ["internal"], "principals": ["neighbours"]}],
        }
    ],
}
GATES = {"tc": "refuse_packet", "socket": "licet_lookup"}
"""What runs for a packet; the socket gate's own program is called by the small one."""
RECEIVER = """
import socket, sys
listening = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
room = bytearray(1 << 20)
while True:
    with listening.accept()[0] as client:
        while client.recv_into(room):
            pass
        client.sendall(b"x")
"""
SENDER = """
import socket, sys, time
piece = bytes(1 << 20)
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
started = time.monotonic()
for _ in range(int(sys.argv[3]) >> 20):
    client.sendall(piece)
client.shutdown(socket.SHUT_WR)
client.recv(1)
print(time.monotonic() - started)
"""


def measure_gates() -> dict[str, Any]:
    """In a laboratory of its own, whose host has tc filters on lo and both veths."""
    with Lab() as lab:
        for port in (LICENSED_PORT, CLOSED_PORT, UNDECLARED_PORT):
            lab.serve(lab.host, "0.0.0.0", port)
        receiver = lab.run(lab.host, [PYTHON, "-Ic", RECEIVER, str(BULK_PORT)])
        assert receiver.stdout is not None
        receiver.stdout.readline()
        with lab.agent(_policy("observe"), {"scope": {"interfaces": ["lo", "to-*", "many*"]}}) as agent:
            switch = _first_refusal_s(lab, agent)
            bulk = _bulk(lab, agent)
            _enforce(agent, "enforce")
            stranger = lab.executable("bench/stranger")
            refusals = measure_refusals(lab, {"tc": (lab.remote, stranger)}, CLOSED_PORT)
            packets = {
                "unprotected": _ns_each(lab, UNDECLARED_PORT),
                "protected": _ns_each(lab, LICENSED_PORT),
            }
            veths = _many_interfaces(lab, agent)
    return {
        "ratio_bulk": bulk["ratio"]["median"],
        "ratio_bulk_off_again": bulk["ratio_off_again"]["median"],
        "refusal_us_tc": refusals["tc"]["us"]["median"],
        "mode_to_first_refusal_s": switch,
        **{f"ns_{gate}_{kind}": of[gate]["ns_each"] for kind, of in packets.items() for gate in GATES},
        **veths,
        "details": {"bulk": bulk, "refusals": refusals, "packets": packets},
    }


def _policy(mode: str) -> str:
    return json.dumps(POLICY | {"enforcement": {"default": mode}})


def _enforce(agent: RunningAgent, mode: str) -> None:
    agent.control("POST", "/v1/mode", json={"mode": mode})

    def attached() -> bool:
        places = {one["gate"]: one["attached_to"] for one in agent.status()["gates"]}
        return bool(places["tc"]) == (mode == "enforce")

    wait_for(attached, f"the gates follow the mode {mode}")


def _first_refusal_s(lab: Lab, agent: RunningAgent) -> float:
    """From asking for the mode to the first attempt from elsewhere that is refused; median of five."""
    agent.wait_until_it_stands_by()
    taken = []
    for _ in range(ROUNDS):
        started = time.monotonic()
        agent.control("POST", "/v1/mode", json={"mode": "enforce"})
        while not lab.load(lab.remote, lab.host.v4, CLOSED_PORT)["errors"]:
            if time.monotonic() - started > 10:
                raise RuntimeError("nothing was refused within 10 s")
        taken.append(time.monotonic() - started)
        _enforce(agent, "observe")
    return round(spread(taken).median, 3)


def _bulk(lab: Lab, agent: RunningAgent) -> dict[str, Any]:
    """One established transfer from another host: without the gates, with them, and without, in turns."""
    modes = {"off": "observe", "on": "enforce", "off_again": "observe"}
    rates: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(BULK_ROUNDS):
        for name, mode in modes.items():
            _enforce(agent, mode)
            time.sleep(SETTLED_S)
            argv = [PYTHON, "-Ic", SENDER, lab.host.v4, str(BULK_PORT), str(BULK_BYTES)]
            rates[name].append(BULK_BYTES / float(lab.call(lab.remote, argv).stdout) / 1e9)
    return {
        "gigabytes_per_s": {name: spread(found).to_json(3) for name, found in rates.items()},
        "ratio": paired_ratio(rates["on"], rates["off"]).to_json(3),
        "ratio_off_again": paired_ratio(rates["off_again"], rates["off"]).to_json(3),
    }


def _ns_each(lab: Lab, port: int) -> dict[str, Any]:
    """By gate: what one packet of a connection from another host costs, of all that come in, and how many
    a connection has."""
    with statistics_on(), programs_named(GATES.values()) as programs:
        before = {name: [cost_of(fd) for fd in fds] for name, fds in programs.items()}
        lab.load(lab.remote, lab.host.v4, port, connections=CONNECTIONS)
        return {
            gate: _difference(before[name], [cost_of(fd) for fd in programs[name]])
            for gate, name in GATES.items()
        }


def _difference(before: list[Cost], after: list[Cost]) -> dict[str, float]:
    runs = sum(cost.runs for cost in after) - sum(cost.runs for cost in before)
    run_ns = sum(cost.run_ns for cost in after) - sum(cost.run_ns for cost in before)
    return {
        "ns_each": round(run_ns / runs, 1) if runs else 0.0,
        "runs_per_connection": round(runs / CONNECTIONS, 2),
    }


def _many_interfaces(lab: Lab, agent: RunningAgent) -> dict[str, float]:
    """50 veths at once: until each has its filter, what the daemon spends on that, and on following them."""
    before_s, started = cpu_s(agent.pid), time.monotonic()
    with _veths(lab, VETHS):
        made_s = time.monotonic() - started
        wait_for(lambda: _filters(agent) >= VETHS, "every veth has a filter", timeout_s=30)
        covered_s, spent_s = time.monotonic() - started - made_s, cpu_s(agent.pid) - before_s
        before_s = cpu_s(agent.pid)
        time.sleep(FOLLOWED_S)
        followed = (cpu_s(agent.pid) - before_s) / FOLLOWED_S
    return {
        "veths_50_covered_s": round(covered_s, 3),
        "cpu_ms_for_a_veth": round(1000 * spent_s / VETHS, 2),
        "cpu_percent_with_50_veths": round(100 * followed, 2),
        "interfaces_1000_s_on_paper": round(1000 * spent_s / VETHS, 2),
    }


def _filters(agent: RunningAgent) -> int:
    (packet,) = (one for one in agent.status()["gates"] if one["gate"] == "tc")
    return int(packet["attached_to"].split()[0]) - 3  # lo and the laboratory's own


@contextmanager
def _veths(lab: Lab, count: int) -> Iterator[None]:
    """Pairs in the host whose near ends are many0, many1, …"""
    inside = ["ip", "-n", lab.host.name, "-batch", "-"]
    make = "\n".join(
        f"link add many{number} type veth peer name far{number}\nlink set many{number} up"
        for number in range(count)
    )
    subprocess.run(inside, input=make, text=True, check=True)
    try:
        yield
    finally:
        gone = "\n".join(f"link del many{number}" for number in range(count))
        subprocess.run(inside, input=gone, text=True, check=True)
