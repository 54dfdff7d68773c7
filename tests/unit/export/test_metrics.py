"""tests/golden/metrics.txt is what tests/unit/export/fake_agent.py shows; after a change on purpose:
LICET_GOLDEN=write pytest tests/unit/export/test_metrics.py"""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from agent import abi
from agent.abi import GATES
from agent.export.agent_port import ProgramCost, Snapshot
from agent.export.event_log import EventLog
from agent.export.families import encoder, written
from agent.export.metrics import MOST_WITH_ZEROS, Metrics
from agent.model import Decision, ListenerState, Origin, PortClass, Target
from tests.fixtures.metrics_text import Samples, parse_metrics, total
from tests.unit.export.fake_agent import ADMIN, INTERNAL, SNAPSHOT, FakeAgent

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics.txt"


def scrape(snapshot: Snapshot, accept: str = "") -> str:
    return written_by(Metrics(FakeAgent(snapshot)), accept)


def written_by(metrics: Metrics, accept: str = "") -> str:
    encode, _ = encoder(accept)
    return b"".join(written(metrics.families(), encode)).decode()


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


def test_the_same_samples_are_written_as_openmetrics() -> None:
    snapshot = replace(
        SNAPSHOT,
        programs={"connect4": ProgramCost(10, 5000)},
        violations_by_consumer={("orders-db", 'a"\\b'): 3},
    )
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_openmetrics(scrape(snapshot, "application/openmetrics-text;version=1.0.0"))
        for sample in family.samples
        if not sample.name.startswith("process_")
    }
    assert found == {key: value for key, value in samples(snapshot).items() if "process_" not in key[0]}
    assert (
        found[
            (
                "licet_violations_by_consumer_total",
                frozenset({("service", "orders-db"), ("consumer", r'a"\b')}),
            )
        ]
        == 3
    )


def test_the_agents_own_memory_and_cpu_are_beside_its_metrics() -> None:
    text = scrape(SNAPSHOT)
    assert "process_resident_memory_bytes" in text
    assert "process_cpu_seconds_total" in text


MANY = tuple(Target(f"service-{number}", PortClass.INTERNAL) for number in range(MOST_WITH_ZEROS + 1))
BY_TARGET_ALONE = {
    "licet_active_connections",
    "licet_flows_opened_total",
    "licet_flows_closed_total",
    "licet_exposures",
    "licet_unserved_ports",
    "licet_enforcing",
    "licet_enforcing_wanted",
}


def test_a_policy_of_many_targets_has_no_zeros_but_those_of_a_target_alone() -> None:
    found = samples(Snapshot(version="0.2.0", targets=MANY))
    of_targets = [(name, dict(labels)) for name, labels in found if dict(labels).get("service")]
    assert {name for name, _ in of_targets} == BY_TARGET_ALONE
    assert len(of_targets) == len(BY_TARGET_ALONE) * len(MANY)
    assert {set(labels) == {"service", "port_class"} for _, labels in of_targets} == {True}
    few = samples(Snapshot(version="0.2.0", targets=MANY[:-1]))
    assert len(few) > 50 * MOST_WITH_ZEROS


def test_of_many_targets_whatever_was_counted_has_its_series() -> None:
    first, gone = MANY[0], Target("old-db", PortClass.ADMIN)
    counted = replace(
        SNAPSHOT,
        targets=MANY,
        connections={(first, Origin.REMOTE, Decision.DENIED): 9, (gone, Origin.REMOTE, Decision.GRACE): 2},
        violations={(first, "no_license"): 9},
        unresolved={(gone, Decision.ALLOWED): 4},
        refused={(first, "tc"): 5},
        opened={gone: 1},
        listeners={("service-0", "any", ListenerState.OWNER_MISMATCH): 1},
        listener_violations={("service-0", "internal", "owner_mismatch"): 1},
    )
    found = samples(counted)
    few = samples(replace(counted, targets=MANY[:3]))
    for name in (
        "connections_total",
        "violations_total",
        "unresolved_connections_total",
        "refused_total",
        "listeners",
    ):
        name = f"licet_{name}"
        counts = {key: count for key, count in found.items() if key[0] == name and dict(key[1])["service"]}
        assert counts
        assert counts == {key: count for key, count in few.items() if key[0] == name and count}
    assert total(found, "licet_flows_opened_total", service="old-db") == 1


def test_the_series_of_no_service_are_there_at_zero_however_many_targets() -> None:
    found = samples(Snapshot(version="0.2.0", targets=MANY))
    undeclared = {"service": "", "port_class": "", "reason": "undeclared_listener"}
    assert found[("licet_violations_total", frozenset(undeclared.items()))] == 0
    anywhere = {"service": "", "bind": "any", "state": "undeclared_listener"}
    assert found[("licet_listeners", frozenset(anywhere.items()))] == 0


def test_a_listener_that_was_there_leaves_a_zero() -> None:
    agent = FakeAgent(Snapshot(version="0.2.0", targets=MANY))
    metrics = Metrics(agent)

    def listeners(now: dict[tuple[str, str, ListenerState], int]) -> dict[str, float]:
        agent.seen = replace(agent.seen, listeners=now)
        found = parse_metrics(written_by(metrics))
        by_service = {
            dict(labels)["service"]: n for (name, labels), n in found.items() if name == "licet_listeners"
        }
        return {service: count for service, count in by_service.items() if service}

    one = {("service-7", "any", ListenerState.DECLARED): 2}
    assert listeners({}) == {}
    assert listeners(one) == {"service-7": 2}
    assert listeners({}) == {"service-7": 0}
    assert listeners({}) == {"service-7": 0}
    assert listeners(one) == {"service-7": 2}
    agent.seen = replace(
        agent.seen, targets=tuple(Target(f"new-{n}", PortClass.INTERNAL) for n in range(501))
    )
    assert listeners({}) == {}, "the service left the policy"


def test_every_metric_and_every_cause_of_a_loss_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    names = {name for name, _ in samples(SNAPSHOT) if name.startswith("licet_")}
    assert [name for name in names if f"`{name}`" not in page] == []
    causes = (*abi.LOSSES, *EventLog("none", 0).losses())
    assert [cause for cause in causes if f"`{cause}`" not in page] == []
