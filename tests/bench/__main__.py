"""`make bench`: everything that design.md gives a budget for, measured in a laboratory of its own."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import daemon
from tests.bench.conditions import Condition, Traffic, on_one_cpu
from tests.bench.costs import Hooked, measure_costs
from tests.bench.crowd import measure_crowd
from tests.bench.datagrams import measure_datagrams
from tests.bench.decide import measure_decide
from tests.bench.empty_hooks import empty_hooks
from tests.bench.enforce import enforced, first_refusal_s, measure_refusals
from tests.bench.flows import measure_flows
from tests.bench.packets import measure_gates
from tests.bench.peer import RULES, load_rules
from tests.bench.pinned import pinned_programs
from tests.bench.policies import one_grant, policy_of_grants
from tests.bench.rates import measure_rates, worst_ratio
from tests.bench.services import measure_services
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent

PROTECTED_PORT = 5432


class Bench:
    """One laboratory, one agent, and the conditions around them."""

    def __init__(self, lab: Lab, rounds: int) -> None:
        self._lab = lab
        self._rounds = rounds
        self._traffic = Traffic(lab)
        self._program = lab.executable("bench/client")
        self._off = self._condition("off", 7001, lab.outside_cgroup("off"))
        self._off_again = self._condition("off_again", 7002, lab.outside_cgroup("off-again"))
        self._empty = self._condition("empty", 7003, lab.outside_cgroup("empty"))
        self._unprotected = self._condition("unprotected", 7004, lab.scope)
        self._observe = self._condition("observe", PROTECTED_PORT, lab.scope)
        self._peer = Condition(
            f"nftables_{RULES}", lab.container, lab.outside_cgroup("peer"), 7005, self._program
        )

    def _condition(self, name: str, port: int, cgroup: str) -> Condition:
        return Condition(name, self._lab.host, cgroup, port, self._program)

    def measure(self) -> dict[str, Any]:
        load_rules(self._lab, self._lab.container)
        policy = one_grant(port=PROTECTED_PORT, consumer=self._program)
        say("start to protected")
        started = daemon.start_to_protected_s(self._lab, policy, rounds=5, compile_=True)
        started_again = daemon.start_to_protected_s(self._lab, policy, rounds=5, compile_=False)
        agent = self._lab.agent(policy)
        for each in self._conditions:
            self._traffic.serve(each)
        with empty_hooks(self._empty.cgroup) as empty:
            say("connection rates on one CPU")
            with on_one_cpu(self._conditions):
                rates = self._rates(self._rounds)
            say("connection rates on all of them")
            spread_out = self._rates(max(3, self._rounds // 2))
            say("kernel time")
            costs = self._costs(agent, empty)
        say("processor time of the daemon")
        loads = {
            each.name: daemon.cpu_percent_under_load(agent, self._traffic, each)
            for each in (self._unprotected, self._observe)
        }
        memory_mb = daemon.rss_mb(agent.pid)
        say("enforce")
        self._lab.serve(self._lab.host, self._lab.host.v4, PROTECTED_PORT, cgroup=self._lab.scope)
        switch = first_refusal_s(self._lab, agent, policy, PROTECTED_PORT, rounds=5)
        agent.set_policy(enforced(policy) + "\n")
        with on_one_cpu(self._conditions):
            enforce_rates = measure_rates(self._traffic, self._off, [self._observe], rounds=self._rounds)
        stranger = self._lab.executable("bench/stranger")
        places = {"connect": (self._lab.host, stranger), "remote": (self._lab.remote, stranger)}
        refusals = measure_refusals(self._lab, places, PROTECTED_PORT)
        agent.set_policy(policy)
        say("decide() and reload")
        large = policy_of_grants(10_000, port=PROTECTED_PORT, consumer=self._program)
        reload = daemon.reload_s(agent, (large, large + "\n"), rounds=6)
        decide = measure_decide(PROTECTED_PORT, self._program)
        ns = {name: each["ns_per_connection"]["median"] for name, each in costs.items()}
        say("packet and socket gate")
        gates = measure_gates()
        say("datagrams")
        datagrams = measure_datagrams(rounds=self._rounds)
        say("many network namespaces")
        crowd = measure_crowd(self._lab)
        say("thousands of services and listeners")
        services = measure_services(self._lab)
        say("many open flows")
        flows = measure_flows(self._lab)
        return {
            "ratio_unprotected": worst_ratio(rates, self._unprotected.name),
            "ratio_observe": worst_ratio(rates, self._observe.name),
            "ratio_enforce": worst_ratio(enforce_rates, self._observe.name),
            "ratio_nftables_1000": worst_ratio(rates, self._peer.name),
            "ratio_off_again": worst_ratio(rates, self._off_again.name),
            "ratio_observe_all_cpus": worst_ratio(spread_out, self._observe.name),
            "ratio_off_again_all_cpus": worst_ratio(spread_out, self._off_again.name),
            "ns_empty": ns["empty"],
            "ns_unprotected": round(ns["unprotected"] - ns["empty"], 1),
            "ns_protected": round(ns["observe"] - ns["empty"], 1),
            **{name: each["ns"] for name, each in decide.items()},
            "rss_mb": round(memory_mb, 1),
            "rss_mb_10k_grants": round(daemon.rss_mb(agent.pid), 1),
            "cpu_percent_10k_unprotected": loads["unprotected"]["percent"],
            "cpu_percent_10k_protected": loads["observe"]["percent"],
            **{f"refusal_us_{name}": each["us"]["median"] for name, each in refusals.items()},
            "first_refusal_s": round(switch.median, 3),
            **{name: value for name, value in gates.items() if name != "details"},
            "start_to_protected_s": round(started.median, 3),
            "start_again_to_protected_s": round(started_again.median, 3),
            "reload_10k_s": round(reload.median, 3),
            **crowd,
            **services,
            **flows,
            **{name: value for name, value in datagrams.items() if name != "details"},
            "details": {
                "machine": {
                    "cores": os.cpu_count(),
                    "kernel": platform.release(),
                    "arch": platform.machine(),
                },
                "rates": rates,
                "rates_all_cpus": spread_out,
                "rates_enforce": enforce_rates,
                "refusals": refusals,
                "gates": gates["details"],
                "datagrams": datagrams["details"],
                "first_refusal_s": switch.to_json(3),
                "kernel_time": costs,
                "decide": decide,
                "daemon_under_load": loads,
                "start_to_protected_s": started.to_json(3),
                "start_again_to_protected_s": started_again.to_json(3),
                "reload_10k_s": reload.to_json(3),
            },
        }

    @property
    def _conditions(self) -> list[Condition]:
        return [self._off, self._off_again, self._empty, self._unprotected, self._observe, self._peer]

    def _rates(self, rounds: int) -> dict[str, Any]:
        return measure_rates(self._traffic, self._off, self._conditions[1:], rounds=rounds)

    def _costs(self, agent: RunningAgent, empty: dict[str, int]) -> dict[str, Any]:
        with pinned_programs(agent.files.pins) as ours:
            hooked = [
                Hooked(self._empty, empty),
                Hooked(self._unprotected, ours),
                Hooked(self._observe, ours),
            ]
            return measure_costs(self._traffic, hooked, rounds=max(3, self._rounds // 4))


def say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=25, help="rounds of interleaved rate measurements")
    arguments = parser.parse_args()
    started = time.monotonic()
    with Lab() as lab:
        result = Bench(lab, arguments.rounds).measure()
    result["details"]["bench_s"] = round(time.monotonic() - started, 1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "details"}, indent=2))
    say(f"all of it is in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
