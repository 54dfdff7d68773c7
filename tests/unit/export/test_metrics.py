"""tests/golden/metrics.txt is what tests/unit/export/fake_agent.py shows; after a change on purpose:
LICET_GOLDEN=write pytest tests/unit/export/test_metrics.py"""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from agent import abi
from agent.abi import GATES
from agent.export.agent_port import ProgramCost, Snapshot
from agent.export.event_log import EventLog
from agent.export.metrics import registry
from agent.model import Decision, Origin, PortClass, Target
from tests.fixtures.metrics_text import Samples, parse_metrics, total
from tests.unit.export.fake_agent import ADMIN, INTERNAL, SNAPSHOT, FakeAgent

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics.txt"


def scrape(snapshot: Snapshot) -> str:
    return generate_latest(registry(FakeAgent(snapshot))).decode()


def own(text: str) -> str:
    """Without process_*, whose values are this machine's."""
    return "".join(line for line in text.splitlines(keepends=True) if "process_" not in line)


def samples(snapshot: Snapshot) -> Samples:
    return parse_metrics(scrape(snapshot))


def test_every_name_label_and_help_text_is_the_golden_one() -> None:
    text = own(scrape(SNAPSHOT))
    if os.environ.get("LICET_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with the prometheus package")
def test_promtool_has_no_complaint() -> None:
    text = scrape(replace(SNAPSHOT, programs={"connect4": ProgramCost(10, 5000)}))
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_every_series_of_every_target_is_there_at_zero_before_anything_happens() -> None:
    found = samples(Snapshot(version="0.1.0", targets=(INTERNAL, ADMIN)))
    for target in (INTERNAL, ADMIN):
        labels = {"service": target.service, "port_class": target.port_class.value}
        for origin in Origin:
            for decision in Decision:
                series = {**labels, "origin": origin.name.lower(), "decision": decision.name.lower()}
                assert found[("licet_connections_total", frozenset(series.items()))] == 0
        for reason in (
            "excluded",
            "no_license",
            "unlicensed_principal",
            "unresolved",
            "not_yet_valid",
            "expired",
            "owner_mismatch",
            "exposed_port",
        ):
            series = {**labels, "reason": reason}
            assert found[("licet_violations_total", frozenset(series.items()))] == 0
        for outcome in ("allowed", "denied"):
            series = {**labels, "decision": outcome}
            assert found[("licet_unresolved_connections_total", frozenset(series.items()))] == 0
        for gate in abi.GATES:
            assert found[("licet_refused_total", frozenset({**labels, "gate": gate}.items()))] == 0
        for name in (
            "licet_active_connections",
            "licet_flows_opened_total",
            "licet_flows_closed_total",
            "licet_exposures",
            "licet_enforcing",
            "licet_enforcing_wanted",
        ):
            assert found[(name, frozenset(labels.items()))] == 0
    undeclared = {"service": "", "port_class": "", "reason": "undeclared_listener"}
    assert found[("licet_violations_total", frozenset(undeclared.items()))] == 0
    assert found[("licet_unprotected_connections_total", frozenset({("direction", "inbound")}))] == 0
    declared = {"service": "orders-db", "bind": "loopback", "state": "declared"}
    assert found[("licet_listeners", frozenset(declared.items()))] == 0


def test_no_series_carries_a_pid_an_address_or_a_path() -> None:
    allowed = {
        "service", "port_class", "origin", "decision", "reason", "consumer", "direction", "bind", "state",
        "license", "issuer", "cause", "map", "hook", "rung", "version", "gate", "mode",
    }  # fmt: skip
    seen = {label for name, labels in samples(SNAPSHOT) if name.startswith("licet_") for label, _ in labels}
    assert seen == allowed


def test_counters_of_a_target_that_left_the_policy_stay() -> None:
    gone = Target("old-db", PortClass.ADMIN)
    found = samples(
        replace(
            SNAPSHOT,
            connections={(gone, Origin.REMOTE, Decision.DENIED): 9},
            violations={(gone, "no_license"): 9},
            opened={gone: 2},
            closed={gone: 1},
        )
    )
    assert total(found, "licet_connections_total", service="old-db") == 9
    assert total(found, "licet_violations_total", service="old-db", reason="no_license") == 9
    assert total(found, "licet_flows_closed_total", service="old-db") == 1


def test_gates_have_the_names_of_the_kernels() -> None:
    assert GATES == abi.GATES
    assert total(samples(SNAPSHOT), "licet_refused_total", gate="connect", port_class="internal") == 2
    assert total(samples(SNAPSHOT), "licet_refused_total", port_class="admin") == 0


def test_an_override_has_a_series_only_while_it_is_in_force() -> None:
    name = "licet_mode_override_since_timestamp_seconds"
    found = samples(SNAPSHOT)
    assert total(found, "licet_mode_overrides") == 2
    assert total(found, name, service="", port_class="", mode="observe") == 1795000100.0
    assert total(found, name, service="orders-db", port_class="admin", mode="enforce") == 1795000200.5
    without = samples(replace(SNAPSHOT, mode_overrides=()))
    assert total(without, "licet_mode_overrides") == 0
    assert name not in {name for name, _ in without}


def test_program_costs_are_there_only_while_they_are_measured() -> None:
    assert "licet_bpf_program" not in scrape(SNAPSHOT)
    found = samples(replace(SNAPSHOT, programs={"connect4": ProgramCost(10, 2_500_000_000)}))
    assert total(found, "licet_bpf_program_runs_total", program="connect4") == 10
    assert total(found, "licet_bpf_program_run_seconds_total", program="connect4") == 2.5


def test_a_consumer_with_an_undecodable_name_does_not_cost_the_scrape() -> None:
    odd = {("orders-db", os.fsdecode(b"x\xff")): 1, ("orders-db", r"x\xff"): 2, ("orders-db", 'a"\n'): 4}
    found = samples(replace(SNAPSHOT, violations_by_consumer=odd))
    assert total(found, "licet_violations_by_consumer_total") == 7
    assert total(found, "licet_violations_by_consumer_total", consumer=r"x\xff") == 3


def test_the_same_series_can_be_written_as_openmetrics() -> None:
    assert generate_openmetrics(registry(FakeAgent())).decode().endswith("# EOF\n")


def test_the_agents_own_memory_and_cpu_are_beside_its_metrics() -> None:
    text = scrape(SNAPSHOT)
    assert "process_resident_memory_bytes" in text
    assert "process_cpu_seconds_total" in text


def test_two_agents_in_one_process_share_nothing() -> None:
    registry(FakeAgent())
    assert "licet_build_info" in generate_latest(registry(FakeAgent())).decode()


def test_every_metric_and_every_cause_of_a_loss_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    names = {name for name, _ in samples(SNAPSHOT) if name.startswith("licet_")}
    assert [name for name in names if f"`{name}`" not in page] == []
    causes = (*abi.LOSSES, *EventLog("none", 0).losses())
    assert [cause for cause in causes if f"`{cause}`" not in page] == []
