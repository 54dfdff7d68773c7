"""A real Prometheus scrapes a real agent: a container's violation is there by name, and its alert fires."""

from __future__ import annotations

from tests.fixtures.crun import Runtime, client
from tests.fixtures.lab import Lab
from tests.fixtures.running_prometheus import RunningPrometheus
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7301, class: internal, bind: [127.0.0.0/8]}]}
principals: {licensed: [{uid: 1001}]}
licenses:
  - id: acme-2099
    product: acme
    expires_at: 2099-01-01T00:00:00Z
    entitlements: [{id: use, classes: [internal], principals: [licensed]}]
"""


def test_a_violation_reaches_prometheus_and_its_alert_fires(lab: Lab) -> None:
    lab.serve(lab.host, "0.0.0.0", 7301)
    runtime, number = Runtime(lab), "c" * 64
    runtime.write_docker(number, "intruder", "nginx:1.27")
    agent = lab.agent(POLICY, {"intervals": {"summary": 1, "reconcile": 1}, "containers": runtime.settings})
    prometheus = RunningPrometheus(lab, [agent])
    try:
        scraped = 'licet_violations_total{service="db",reason="unlicensed_principal"}'
        wait_for(lambda: len(prometheus.query(scraped)) == 1, "the agent is scraped", timeout_s=20)
        # LicetNoAgents, without its `for`, fires until the first scrape
        wait_for(
            lambda: set(prometheus.firing()) == {"LicetExposure"}, "the open port is noticed", timeout_s=20
        )

        load = client(lab.host.v4, 7301, connections=3)
        made = runtime.call(number, load, cgroup=f"docker-{number}.scope", by_hand=False)
        assert made["ok"] == 3
        found = wait_for(
            lambda: prometheus.query('licet_violations_by_consumer_total{consumer="intruder"} == 3'),
            "the violation is scraped",
            timeout_s=20,
        )
        assert found[0]["metric"]["service"] == "db"
        assert prometheus.query(f"{scraped} == 3")
        alert = wait_for(lambda: prometheus.firing().get("LicetViolation"), "the alert fires", timeout_s=20)
        assert alert["labels"]["reason"] == "unlicensed_principal"
        assert "intruder (3)" in alert["annotations"]["description"]

        agent.licet("mode", "enforce", "--target", "db", "--yes")
        wait_for(
            lambda: (
                prometheus.query('licet_mode_override_since_timestamp_seconds{mode="enforce"}')
                and prometheus.query("licet_enforcing == 1 and licet_enforcing_wanted == 1")
            ),
            "the override is scraped",
            timeout_s=20,
        )
        for recorded in ("service:licet_violations:increase1h", "version:licet_agents:count"):
            wait_for(lambda name=recorded: prometheus.query(name), recorded, timeout_s=20)
        assert prometheus.unhealthy_rules() == []

        agent.kill9()
        wait_for(lambda: "LicetAgentDown" in prometheus.firing(), "the dead agent is noticed", timeout_s=20)
    finally:
        prometheus.stop()
