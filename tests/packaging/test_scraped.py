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


def test_of_many_services_the_first_violation_fires_its_alert(lab: Lab) -> None:
    """There is no series at zero before it."""
    services = "".join(
        f"  s{n}: {{product: other, ports: [{{port: {20_000 + n}, class: internal}}]}}\n" for n in range(600)
    )
    policy = POLICY.replace("principals:", f"{services}principals:", 1)
    lab.serve(lab.host, "127.0.0.1", 7301)
    agent = lab.agent(policy)
    prometheus = RunningPrometheus(lab, [agent], five_minutes="10s")
    try:
        wait_for(
            lambda: prometheus.query("licet_build_info offset 10s"), "it is scraped for a while", timeout_s=60
        )
        assert prometheus.query("count(licet_active_connections)")[0]["value"][1] == "601"
        assert prometheus.query('licet_violations_total{service!=""}') == []
        assert prometheus.firing() == {}
        lab.load(lab.host, "127.0.0.1", 7301, uid=1002)
        alert = wait_for(lambda: prometheus.firing().get("LicetViolation"), "the alert fires", timeout_s=20)
        assert (alert["labels"]["service"], alert["labels"]["reason"]) == ("db", "unlicensed_principal")
        assert "About 1 in" in alert["annotations"]["description"]
        denied = {"service": "db", "origin": "loopback", "decision": "denied"}
        assert agent.total("licet_connections_total") == agent.total("licet_connections_total", **denied) == 1
    finally:
        prometheus.stop()
