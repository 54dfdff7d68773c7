"""What a datagram costs: exchanges a second with and without an agent, and ns of its programs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.conditions import Condition, on_one_cpu
from tests.bench.costs import cost_of, statistics_on
from tests.bench.pinned import pinned_programs
from tests.bench.policies import one_grant
from tests.bench.spread import paired_ratio
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent

PORT = 5300
EXCHANGES = 20_000
WAYS = ("sendto", "send")


def measure_datagrams(*, rounds: int) -> dict[str, Any]:
    """ratio_udp_*: exchanges a second over those of a cgroup that nothing is attached to; ns_udp_*: of the
    programs of the cgroup, for an exchange of two datagrams, statistics included; details: by program."""
    with Lab() as lab:
        program = _built(lab)
        conditions = {
            "off": Condition("off", lab.host, lab.outside_cgroup("off"), 7101, program),
            "off_again": Condition("off_again", lab.host, lab.outside_cgroup("again"), 7102, program),
            "undeclared": Condition("undeclared", lab.host, lab.scope, 7103, program),
            "declared": Condition("declared", lab.host, lab.scope, PORT, program),
        }
        for each in conditions.values():
            _serve(lab, each)
        policy = one_grant(port=PORT, consumer=program).replace('"class"', '"protocol": "udp", "class"')
        found: dict[str, Any] = {}
        with lab.agent(policy.replace('"udp"', '"tcp"')) as agent, on_one_cpu(conditions.values()):
            found |= _ratios(lab, conditions, ("off_again", "undeclared"), rounds, "tcp_only_")
            agent.set_policy(policy)
            found |= _ratios(lab, conditions, ("undeclared", "declared"), rounds, "")
            found |= _costs(lab, agent, conditions)
            agent.set_policy(policy[:-1] + ', "enforcement": {"default": "enforce"}}')
            found |= _ratios(lab, conditions, ("declared",), rounds, "enforced_")
        return found


def _built(lab: Lab) -> Path:
    program = lab.directory / "echo"
    source = Path(__file__).with_name("echo.c")
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", str(program), str(source)], check=True)
    return program


def _serve(lab: Lab, one: Condition) -> None:
    server = lab.run(one.namespace, [one.program, "serve", str(one.port)], cgroup=one.cgroup)
    assert server.stdout is not None
    if server.stdout.readline() != "ready\n":
        raise RuntimeError(f"{one.name}: {server.communicate()}")


def _rate(lab: Lab, one: Condition, way: str) -> float:
    argv = [one.program, way, str(one.port), str(EXCHANGES)]
    return float(json.loads(lab.call(one.namespace, argv, cgroup=one.cgroup).stdout)["per_second"])


def _ratios(
    lab: Lab, conditions: dict[str, Condition], names: tuple[str, ...], rounds: int, prefix: str
) -> dict[str, float]:
    found = {}
    for way in WAYS:
        rates: dict[str, list[float]] = {name: [] for name in ("off", *names)}
        for _ in range(rounds):
            for name, values in rates.items():
                values.append(_rate(lab, conditions[name], way))
        for name in names:
            ratio = paired_ratio(rates[name], rates["off"]).median
            found[f"ratio_udp_{prefix}{name}_{way}"] = round(ratio, 3)
    return found


def _costs(lab: Lab, agent: RunningAgent, conditions: dict[str, Condition]) -> dict[str, Any]:
    found: dict[str, Any] = {"details": {}}
    with pinned_programs(agent.files.pins) as programs, statistics_on():

        def spent(work: Callable[[], float]) -> dict[str, float]:
            before = {name: cost_of(fd).run_ns for name, fd in programs.items()}
            work()
            after = {name: cost_of(fd).run_ns for name, fd in programs.items()}
            return {name: round((after[name] - before[name]) / EXCHANGES, 1) for name in programs}

        for name in ("undeclared", "declared"):
            for way in WAYS:
                by_program = spent(lambda name=name, way=way: _rate(lab, conditions[name], way))  # type: ignore[misc]
                found[f"ns_udp_{name}_{way}"] = round(sum(by_program.values()), 1)
                found["details"][f"{name}_{way}"] = {one: ns for one, ns in by_program.items() if ns}
    return found
