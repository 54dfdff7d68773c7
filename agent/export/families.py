"""Metric families as text, in the two formats that Prometheus reads: its own (0.0.4) and OpenMetrics (1.0.0).

https://prometheus.io/docs/instrumenting/exposition_formats/ and the specification of OpenMetrics. They are
written here, because prometheus_client takes 17 µs for a sample and a scrape may have 30,000."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent.model import Target

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one metric."""

    name: str
    sample: str
    """The name of its samples. Those of a counter end in _total."""
    kind: str
    text: str
    """One line without quotes and backslashes."""
    _lines: list[str] = field(default_factory=list)

    def add(self, labels: str, value: float) -> None:
        """`labels`: as `labels_of` writes them; empty if the metric has none."""
        within = f"{{{labels}}}" if labels else ""
        self._lines.append(f"{self.sample}{within} {_number(value)}\n")

    def written(self, content_type: str) -> str:
        name = self.name if content_type == OPENMETRICS else self.sample
        return "".join((f"# HELP {name} {self.text}\n# TYPE {name} {self.kind}\n", *self._lines))


def counter(name: str, text: str) -> Family:
    """`name`: without _total."""
    return Family(name, f"{name}_total", "counter", text)


def gauge(name: str, text: str) -> Family:
    return Family(name, name, "gauge", text)


def labels_of(**values: str) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in values.items()])


def of(target: Target) -> str:
    """The labels of a target."""
    return labels_of(service=target.service, port_class=target.port_class.value)


def chosen_type(accept: str) -> str:
    """The content type for an Accept header: OpenMetrics if it is named in version 1 or without one."""
    for one in accept.split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        versions = [each.removeprefix("version=") for each in parameters if each.startswith("version=")]
        if kind == "application/openmetrics-text" and all(each.split(".")[0] == "1" for each in versions):
            return OPENMETRICS
    return TEXT


def written(families: Iterable[Family], content_type: str) -> Iterator[bytes]:
    """An answer, one family after the other."""
    for family in families:
        yield family.written(content_type).encode()
    if content_type == OPENMETRICS:
        yield b"# EOF\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    """Integers have every digit: a float has 53 bits."""
    if math.isfinite(value):
        return str(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
