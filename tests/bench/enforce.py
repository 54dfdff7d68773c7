"""What enforcing costs: the rate of licensed connections, how fast a refusal is, how fast the switch."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.conditions import ADDRESS
from tests.bench.spread import Spread, paired_ratio, spread
from tests.fixtures import namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent

ATTEMPTS = 3_000
CLOSED_PORT = 7999


def enforced(policy: str) -> str:
    """The same policy, enforced. Policies of the benchmark are JSON."""
    return json.dumps(json.loads(policy) | {"enforcement": {"default": "enforce"}})


def measure_refusals(lab: Lab, consumers: Mapping[str, tuple[Namespace, Path]], port: int) -> dict[str, Any]:
    """By gate that refuses: us for one refused attempt, and ÷ an attempt at a closed port, from there."""
    return {name: _refusal(lab, place, program, port) for name, (place, program) in consumers.items()}


def _refusal(lab: Lab, place: Namespace, program: Path, port: int) -> dict[str, Any]:
    address = ADDRESS if place == lab.host else lab.host.v4
    refused, closed = [], []
    for _ in range(7):
        refused.append(_us_each(lab, place, program, address, port))
        closed.append(_us_each(lab, place, program, address, CLOSED_PORT))
    return {
        "us": spread(refused).to_json(2),
        "closed_us": spread(closed).to_json(2),
        "over_closed": paired_ratio(refused, closed).to_json(3),
    }


def _us_each(lab: Lab, place: Namespace, program: Path, address: str, port: int) -> float:
    """Raises RuntimeError if a single attempt got through."""
    cgroup = lab.scope if place == lab.host else None
    result = lab.load(place, address, port, connections=ATTEMPTS, program=program, cgroup=cgroup)
    if result["ok"]:
        raise RuntimeError(f"{result['ok']} attempts at {address}:{port} were not refused")
    return float(result["seconds"]) / ATTEMPTS * 1e6


def first_refusal_s(lab: Lab, agent: RunningAgent, policy: str, port: int, *, rounds: int) -> Spread:
    """From writing a policy that enforces to the first connect() from elsewhere that is refused."""
    taken = []
    for round_ in range(rounds):
        agent.set_policy(policy + "\n" * (round_ + 1))  # what is there already is not read again
        started = time.monotonic()
        agent.files.write_policy(enforced(policy))
        with namespaces.entered(lab.remote):
            while not _is_refused(lab.host.v4, port):
                if time.monotonic() - started > 10:
                    raise RuntimeError("nothing was refused within 10 s")
        taken.append(time.monotonic() - started)
    return spread(taken)


def _is_refused(address: str, port: int) -> bool:
    with socket.socket() as attempt:
        attempt.settimeout(5)
        return attempt.connect_ex((address, port)) != 0
