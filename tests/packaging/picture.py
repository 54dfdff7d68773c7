"""Draws the dashboard from what a real Prometheus scraped of a real agent, so that somebody can look at it:

    python -m tests.packaging.picture build/dashboard.png

Only the queries, units and legends are Grafana's; its layout of each panel is not imitated."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.fixtures.lab import ROOT, Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.running_prometheus import RunningPrometheus

SECONDS = 75
POLICY = """\
version: 1
services:
  orders-db:
    product: acme
    ports: [{port: 7301, class: internal}, {port: 7302, class: admin, bind: [127.0.0.0/8]}]
  shop: {product: acme-shop, ports: [{port: 7303, class: public}]}
principals: {billing: [{uid: 1001}], ops: [{uid: 1003}]}
licenses:
  - id: acme-2099
    product: acme
    expires_at: 2099-01-01T00:00:00Z
    entitlements:
      - {id: app, classes: [internal], principals: [billing]}
      - {id: operate, classes: [admin], principals: [ops]}
  - id: shop-on-grace
    product: acme-shop
    expires_at: 2024-01-01T00:00:00Z
    terminates_at: 2098-01-01T00:00:00Z
    entitlements: [{id: all, principals: [anyone]}]
  - {id: forever, product: acme-shop, entitlements: [{id: all, principals: [ops]}]}
enforcement: {default: observe}
"""


def play(lab: Lab, agent: RunningAgent) -> None:
    """A minute in which something of each kind happens."""
    names = {uid: lab.executable(name) for uid, name in ((1001, "billing"), (1002, "curl"), (1003, "ops"))}
    until = time.monotonic() + SECONDS
    enforced = False
    while time.monotonic() < until:
        for port, uid, count in (
            (7301, 1001, 20),
            (7301, 1002, 4),
            (7302, 1003, 5),
            (7302, 1001, 2),
            (7303, 1002, 9),
        ):
            lab.load(lab.host, "127.0.0.1", port, connections=count, uid=uid, program=names[uid])
        lab.load(lab.remote, lab.host.v4, 7301, connections=3)
        lab.load(lab.container, lab.host.v4, 7303, connections=3)
        if not enforced and until - time.monotonic() < SECONDS / 2:
            agent.licet("mode", "enforce", "--target", "orders-db/admin", "--yes")
            agent.files.write_policy("version: 1\nservces: {}\n")
            enforced = True
        time.sleep(0.5)  # its pace: the picture shows rates


def ask(prometheus: RunningPrometheus, panel: dict[str, Any], start_s: float) -> list[tuple[str, Any]]:
    """(query's letter, result) of every target; Grafana's variables as it would fill them."""
    found = []
    for target in panel["targets"]:
        expression = target["expr"]
        for name, value in (
            ("$__rate_interval", "5s"), ("$__range", f"{SECONDS}s"),
            ("$job", ".*"), ("$instance", ".*"), ("$service", ".*"),
        ):  # fmt: skip
            expression = expression.replace(name, value)
        if target["instant"]:
            found.append((target["refId"], prometheus.query(expression)))
        else:
            found.append((target, prometheus.query_range(expression, start_s, time.time(), 1)))
    return found


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    text = str(target["legendFormat"])
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def row_name(labels: dict[str, str]) -> str:
    return " ".join(value for name, value in labels.items() if name not in ("job", "__name__"))


def draw(panel: dict[str, Any], answers: list[tuple[Any, Any]], axes: Axes, start_s: float) -> None:
    axes.set_title(f"{panel['title']} [{panel['fieldConfig']['defaults'].get('unit', '')}]", fontsize=8)
    axes.tick_params(labelsize=6)
    if panel["type"] == "timeseries":
        for target, rows in answers:
            for row in rows:
                x, y = zip(*((at - start_s, float(value)) for at, value in row["values"]), strict=True)
                axes.plot(x, y, label=legend(target, row["metric"]), marker=".", markersize=2)
        if axes.lines:
            axes.legend(fontsize=5)
        axes.set_ylim(bottom=0)
        return
    axes.axis("off")
    rows = [
        f"{letter}: {row_name(row['metric'])} = {row['value'][1]}"
        for letter, found in answers
        for row in found
    ]
    size = 18 if panel["type"] == "stat" else 7
    text = answers[0][1][0]["value"][1] if panel["type"] == "stat" and answers[0][1] else "\n".join(rows)
    axes.text(0.02, 0.95, text or "(no data)", fontsize=size, va="top", transform=axes.transAxes)


def picture(prometheus: RunningPrometheus, start_s: float) -> Figure:
    dashboard = json.loads((ROOT / "packaging" / "grafana" / "licet.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    columns = 4
    figure, grid = plt.subplots(
        -(-len(panels) // columns), columns, figsize=(22, 3.2 * len(panels) / columns)
    )
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for panel, axes in zip(panels, grid.flat, strict=False):
        draw(panel, ask(prometheus, panel, start_s), axes, start_s)
    figure.tight_layout()
    return figure


def main(path: Path) -> None:
    with Lab() as lab:
        for address, port in (("0.0.0.0", 7301), ("0.0.0.0", 7302), ("::", 7303)):
            lab.serve(lab.host, address, port)
        agent = lab.agent(POLICY, {"intervals": {"summary": 1, "reconcile": 1}, "costs": True})
        prometheus = RunningPrometheus(lab, [agent])
        start_s = time.time()
        play(lab, agent)
        path.parent.mkdir(exist_ok=True)
        picture(prometheus, start_s).savefig(path, dpi=75)
        print("\n".join(f"fires: {name}" for name in sorted(prometheus.firing())))
        prometheus.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
