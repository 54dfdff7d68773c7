"""Rules, scrape configuration and dashboard against promtool and against what the agent exports."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.expressions import golden_labels, grouped_by, selectors

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "packaging" / "prometheus"
DASHBOARD = ROOT / "packaging" / "grafana" / "licet.json"
ALERT_TESTS = Path(__file__).parent / "alerts.yaml"
RULE_FILES = ("licet-recording.yaml", "licet-alerts.yaml")
OF_THE_SCRAPE = {"job", "instance"}
NOT_OURS = {name: set[str]() for name in ("up", "process_cpu_seconds_total", "process_resident_memory_bytes")}
COSTS = {
    name: {"program"} for name in ("licet_bpf_program_runs_total", "licet_bpf_program_run_seconds_total")
}
"""There only with `costs: true`, so not in the golden file; tests/unit/export/test_metrics.py has them."""


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    groups = [
        group for name in RULE_FILES for group in yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    ]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Labels of every metric there is, those that recording rules make included."""
    found = golden_labels(ROOT / "tests" / "golden" / "metrics.txt") | COSTS | NOT_OURS
    return found | {rule["record"]: grouped_by(rule["expr"]) for rule in rules() if "record" in rule}


def mistakes(expression: str, known: dict[str, set[str]], more: set[str]) -> Iterator[str]:
    """`more` are labels that texts around the expression speak of."""
    used = list(selectors(expression))
    if not used:
        yield f"no metric in {expression}"
    available = set(OF_THE_SCRAPE)
    for name, matched in used:
        if name not in known:
            yield f"{name} is not exported"
            continue
        available |= known[name]
        if wrong := matched - known[name] - OF_THE_SCRAPE:
            yield f"{name} has no label {', '.join(wrong)}"
    if wrong := (grouped_by(expression) | more) - available:
        yield f"no label {', '.join(wrong)} in {expression}"


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", *(PROMETHEUS / name for name in RULE_FILES))


def test_each_alert_fires_and_stays_quiet_as_its_tests_say() -> None:
    promtool("test", "rules", ALERT_TESTS)


def test_each_alert_has_a_test_of_both_kinds() -> None:
    fires: set[str] = set()
    quiet: set[str] = set()
    for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"]:
        for case in test.get("promql_expr_test", ()):
            names = set(re.findall(r"Licet\w+", case["expr"]))
            (fires if case["exp_samples"] else quiet).update(names)
        fires |= {case["alertname"] for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
    names = {alert["alert"] for alert in alerts()}
    assert (names - fires, names - quiet) == (set(), set())


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    sections = re.findall(r"^## (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in sections


def test_every_runbook_has_its_alert() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert sections == sorted(sections, key=[alert["alert"] for alert in alerts()].index)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_what_is_exported(rule: dict[str, Any], exported: dict[str, set[str]]) -> None:
    texts = " ".join(rule.get("annotations", {}).values())
    spoken_of = set(re.findall(r"\$labels\.(\w+)", texts))
    assert list(mistakes(rule["expr"], exported, spoken_of)) == []
    for name, _ in selectors(texts):
        assert name in exported


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_asks_for_what_is_exported(panel: dict[str, Any], exported: dict[str, set[str]]) -> None:
    assert panel["description"]
    for target in panel["targets"]:
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert list(mistakes(target["expr"], exported, legend)) == []


def test_panels_neither_overlap_nor_share_an_id() -> None:
    every = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for position in (panel["gridPos"] for panel in every):
        cells = {
            (x, y)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_a_name_or_label_that_is_not_exported_is_found(exported: dict[str, set[str]]) -> None:
    assert list(mistakes('rate(licet_conections_total{service="a"}[5m])', exported, set()))
    assert list(mistakes('licet_exposures{reason="a"}', exported, set()))
    assert list(mistakes("sum by (reason) (licet_exposures)", exported, set()))
    assert list(mistakes("licet_exposures", exported, {"reason"}))
    assert not list(mistakes('sum by (job, service) (licet_exposures{service="a}"})', exported, {"instance"}))
