"""`make demo`: the story of one licensed database, and that of a signed license (demo_signed.py), played on
the real kernel in throwaway namespaces.

Every step is checked against what the agent told and counted; the exit code is 1 if one did not hold.
"""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import Any

from tests.e2e.demo_signed import SignedDemo
from tests.e2e.stage import Stage
from tests.fixtures.lab import Lab
from tests.fixtures.metrics_text import Samples
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.waiting import SLOWER, wait_for

POLICY = """\
version: 1
services:
  orders-db:
    product: acme-orders
    owner: [{{unit: postgresql.service}}]
    ports:
      - {{port: 5432, class: internal}}
      - {{port: 9187, class: admin}}
  orders-cache:
    product: acme-orders
    ports:
      - {{port: 6379, class: internal, bind: [127.0.0.0/8, "::1/128"]}}
principals:
  billing: [{{unit: billing.service}}]
  ops: [{{exe: {ops}, uid: 2000}}]
licenses:
  - id: acme
    product: acme-orders
    expires_at: {expires}
    entitlements:
      - {{id: app, classes: [internal], principals: [billing]}}
      - {{id: operate, classes: [admin], principals: [ops]}}
"""
ENFORCE_S = round(8 * SLOWER)
SHOWN = ("licet_connections_total", "licet_violations_total", "licet_active_connections", "licet_exposures")


class Demo:
    def __init__(self, lab: Lab, stage: Stage) -> None:
        self._lab = lab
        self._stage = stage
        self._postgres = lab.executable("postgresql/bin/postgres")
        self._redis = lab.executable("redis/bin/redis-server")
        self._billing = lab.executable("billing/bin/worker")
        self._report = lab.executable("home/report")
        self._sidecar = lab.executable("container/sidecar")
        self._ops = lab.executable("ops/bin/psql")
        self._ends_s = 0.0

    def play(self) -> None:
        agent = self._start()
        self._licensed_client(agent)
        self._unlicensed_process(agent)
        self._unlicensed_container(agent)
        self._unlicensed_remote(agent)
        self._admin_port(agent)
        self._wide_listener(agent)
        self._numbers(agent)
        self._enforce(agent)
        self._daemon_killed(agent)
        self._lets_go(agent)

    def _start(self) -> RunningAgent:
        lab, stage = self._lab, self._stage
        stage.step("A host with a database, and licet watching it")
        lab.serve(
            lab.host,
            lab.host.v4,
            5432,
            program=self._postgres,
            workers=2,
            cgroup="postgresql.service",
            uid=26,
        )
        lab.serve(lab.host, "127.0.0.1", 9187, program=self._postgres, cgroup="postgresql.service", uid=26)
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=90)
        policy = POLICY.format(ops=self._ops, expires=expires.strftime("%Y-%m-%dT%H:%M:%SZ"))
        stage.say("".join(f"   | {line}\n" for line in policy.splitlines()))
        settings = {
            "acceptor": "always",
            "intervals": {"summary": 1, "reconcile": 1},
            "scope": {"interfaces": ["lo", "to-container", "to-remote"]},
        }
        agent = lab.agent(policy, settings)
        stage.check("the agent is ready", agent.status()["ready"], True)
        return agent

    def _licensed_client(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step("billing.service, which has a license, connects 20 times")
        result = lab.load(
            lab.host,
            lab.host.v4,
            5432,
            connections=20,
            program=self._billing,
            cgroup="billing.service",
            uid=1001,
        )
        stage.check("connections made", result["ok"], 20)
        stage.check("counted as allowed", connections(agent, "internal", "loopback", "allowed"), 20)
        stage.check("violations", agent.total("licet_violations_total", service="orders-db"), 0)

    def _unlicensed_process(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step("Somebody's report script connects 3 times, with no license")
        told = len(agent.events())
        result = lab.load(
            lab.host,
            lab.host.v4,
            5432,
            connections=3,
            program=self._report,
            cgroup="user.slice/session-1.scope",
            uid=1002,
        )
        stage.check("connections made: licet only watches", result["ok"], 3)
        expected = denied("internal") | {
            "consumer.pid": result["pid"],
            "consumer.exe": str(self._report),
            "consumer.uid": 1002,
            "consumer.unit": "session-1.scope",
            "owner.exe": str(self._postgres),
            "owner.unit": "postgresql.service",
        }
        stage.check_event(agent, told, expected)
        stage.check("counted as denied", connections(agent, "internal", "loopback", "denied"), 3)

    def _unlicensed_container(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step("A container on this host connects, over its veth")
        told = len(agent.events())
        result = lab.load(
            lab.container, lab.host.v4, 5432, connections=2, program=self._sidecar, cgroup="pod-1", uid=1003
        )
        expected = denied("internal") | {
            "consumer.pid": result["pid"],
            "consumer.exe": str(self._sidecar),
            "consumer.cgroup": f"{lab.scope}/pod-1",
            "consumer.identity": "process",
        }
        stage.check_event(agent, told, expected)
        stage.check("counted as denied", connections(agent, "internal", "container", "denied"), 2)

    def _unlicensed_remote(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step("Another machine connects: an address is all there is to know it by")
        told = len(agent.events())
        lab.load(lab.remote, lab.host.v4, 5432, connections=4)
        expected = denied("internal") | {"consumer.identity": "address", "consumer.address": lab.remote.v4}
        stage.check_event(agent, told, expected)
        stage.check("counted as denied", connections(agent, "internal", "remote", "denied"), 4)

    def _admin_port(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step("billing.service tries the admin port; its license is for the internal one")
        told = len(agent.events())
        result = lab.load(
            lab.host, "127.0.0.1", 9187, program=self._billing, cgroup="billing.service", uid=1001
        )
        expected = denied("admin") | {
            "consumer.pid": result["pid"],
            "consumer.exe": str(self._billing),
            "consumer.unit": "billing.service",
        }
        stage.check_event(agent, told, expected)
        lab.load(lab.host, "127.0.0.1", 9187, program=self._ops, uid=2000)
        stage.check("denied for billing", connections(agent, "admin", "loopback", "denied"), 1)
        stage.check("allowed for ops", connections(agent, "admin", "loopback", "allowed"), 1)

    def _wide_listener(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step("A cache that may listen on loopback only is started on every address")
        told = len(agent.events())
        server = lab.serve(lab.host, "0.0.0.0", 6379, program=self._redis, cgroup="redis.service")
        expected = {
            "reason": "exposed_port",
            "service": "orders-cache",
            "class": "internal",
            "owner.pid": server.pid,
            "owner.exe": str(self._redis),
        }
        stage.check_event(agent, told, expected)
        stage.check("exposures", agent.total("licet_exposures", service="orders-cache"), 1)

    def _numbers(self, agent: RunningAgent) -> None:
        stage = self._stage
        stage.step("The numbers behind it, as Prometheus sees them")
        samples = agent.metrics()
        for name, labels, value in shown(samples):
            stage.say(f"   {name}{{{labels}}} {value:g}")
        violations = {
            (labels["port_class"], labels["reason"]): value
            for labels, value in of(samples, "licet_violations_total", service="orders-db")
            if value
        }
        expected = {("internal", "unlicensed_principal"): 9.0, ("admin", "unlicensed_principal"): 1.0}
        stage.check("violations of orders-db", violations, expected)
        lost = {labels["cause"]: value for labels, value in of(samples, "licet_events_lost_total") if value}
        stage.check("events lost", lost, {})

    def _enforce(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step(f"orders-db is switched to enforce for {ENFORCE_S} s: the same attempts now fail at once")
        told = len(agent.events())
        mode = agent.licet("mode", "enforce", "--target", "orders-db", "--for", f"{ENFORCE_S}s", "--yes")
        self._ends_s = time.monotonic() + ENFORCE_S
        for line in mode.stdout.splitlines():
            stage.say(f"   | {line}")
        stage.check("the report script", self._attempts(self._report, 3, "user.slice", 1002), {"EPERM": 3})
        container = lab.load(
            lab.container, lab.host.v4, 5432, connections=2, program=self._sidecar, cgroup="pod-1", uid=1003
        )
        stage.check("the container", container["errors"], {"EPERM": 2})
        remote = lab.load(lab.remote, lab.host.v4, 5432, connections=4)
        stage.check("the other machine", remote["errors"], {"ECONNREFUSED": 4})
        stage.check("billing, at the admin port", self._billing_at("127.0.0.1", 9187), {"EPERM": 1})
        stage.check("billing, at its own port", self._billing_at(lab.host.v4, 5432), {})
        stage.check_event(
            agent, told, {"decision": "denied", "enforced": True, "consumer.exe": str(self._report)}
        )

    def _daemon_killed(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step("The daemon is killed: the kernel goes on by itself")
        agent.kill9()
        stage.check("the report script", self._attempts(self._report, 3, "user.slice", 1002), {"EPERM": 3})
        remote = lab.load(lab.remote, lab.host.v4, 5432, connections=4)
        stage.check("the other machine", remote["errors"], {"ECONNREFUSED": 4})
        stage.check("billing", self._billing_at(lab.host.v4, 5432), {})

    def _lets_go(self, agent: RunningAgent) -> None:
        lab, stage = self._lab, self._stage
        stage.step(
            "The time is over, and enforcing ends by itself; the daemon comes back and knows the counts"
        )
        stage.check("the daemon was dead when it ended", time.monotonic() < self._ends_s, True)
        wait_for(lambda: time.monotonic() > self._ends_s + 0.1, "the time is over", timeout_s=2 * ENFORCE_S)
        stage.check("the report script", self._attempts(self._report, 3, "user.slice", 1002), {})
        stage.check("the other machine", lab.load(lab.remote, lab.host.v4, 5432)["errors"], {})
        agent.start()
        stage.check("denied, on this host", connections(agent, "internal", "loopback", "denied"), 3 + 9)
        stage.check("denied, in the container", connections(agent, "internal", "container", "denied"), 2 + 2)
        stage.check("denied, from elsewhere", connections(agent, "internal", "remote", "denied"), 4 + 9)
        stage.check("allowed", connections(agent, "internal", "loopback", "allowed"), 20 + 2)
        refused = {
            labels["gate"]: value
            for labels, value in of(agent.metrics(), "licet_refused_total", port_class="internal")
            if value
        }
        stage.check("refused, by gate", refused, {"connect": 8.0, "tc": 8.0})

    def _billing_at(self, address: str, port: int) -> dict[str, int]:
        return self._lab.load(
            self._lab.host, address, port, program=self._billing, cgroup="billing.service", uid=1001
        )["errors"]

    def _attempts(self, program: Path, count: int, cgroup: str, uid: int) -> dict[str, int]:
        host = self._lab.host
        return self._lab.load(
            host, host.v4, 5432, connections=count, program=program, cgroup=cgroup, uid=uid
        )["errors"]


def denied(port_class: str) -> dict[str, Any]:
    return {
        "decision": "denied",
        "reason": "unlicensed_principal",
        "enforced": False,
        "service": "orders-db",
        "class": port_class,
    }


def connections(agent: RunningAgent, port_class: str, origin: str, decision: str) -> float:
    labels = {"port_class": port_class, "origin": origin, "decision": decision}
    return agent.total("licet_connections_total", service="orders-db", **labels)


def of(samples: Samples, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
    wanted = set(labels.items())
    return [(dict(has), value) for (found, has), value in samples.items() if found == name and wanted <= has]


def shown(samples: Samples) -> list[tuple[str, str, float]]:
    """What is worth showing: everything of SHOWN that is not zero."""
    return [
        (name, ",".join(f'{key}="{text}"' for key, text in sorted(labels.items())), value)
        for name in SHOWN
        for labels, value in of(samples, name)
        if value
    ]


def main() -> int:
    stage = Stage()
    try:
        with Lab() as lab:
            Demo(lab, stage).play()
        with Lab() as lab:
            SignedDemo(lab, stage).play()
    except (RuntimeError, TimeoutError, OSError) as error:
        stage.wrong.append(f"the story could not be played to its end: {error}")
    stage.say("\nEverything the demo made is gone again.")
    for wrong in stage.wrong:
        print(f"demo: {wrong}", file=sys.stderr)
    return 1 if stage.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
