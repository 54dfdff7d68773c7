"""Metric families. prometheus_client writes them as text, in the format that the scraper asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder

from agent.model import Target

_END = b"# EOF\n"


class Collector(Protocol):
    """What prometheus_client writes."""

    def collect(self) -> Iterable[Metric]: ...


class Family:
    """All samples of one metric; a Collector."""

    def __init__(self, name: str, text: str, kind: str) -> None:
        """`kind`: counter or gauge. `name`: of a counter, without _total, which its samples have."""
        self.sample = f"{name}_total" if kind == "counter" else name
        self._metric = Metric(name, text, kind)

    def add(self, labels: dict[str, str], value: float) -> None:
        """`labels` are not copied: change them no more."""
        self._metric.add_sample(self.sample, labels, value)

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def counter(name: str, text: str) -> Family:
    """`name`: without _total."""
    return Family(name, text, "counter")


def gauge(name: str, text: str) -> Family:
    return Family(name, text, "gauge")


def of(target: Target) -> dict[str, str]:
    """The labels of a target."""
    return {"service": target.service, "port_class": target.port_class.value}


def encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """What writes metrics, and its content type, for an Accept header."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # prometheus_client compares versions as numbers and fails on x.y
        return choose_encoder("")


def written(families: Iterable[Collector], encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
    """An answer, one family after the other: the text of all is never in memory."""
    end = b""
    for family in families:
        text = encode(family)
        end = _END if text.endswith(_END) else b""
        yield text.removesuffix(_END)
    yield end
