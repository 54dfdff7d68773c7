"""The two text formats, against the parsers of Prometheus' client library."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.export.families import OPENMETRICS, TEXT, chosen_type, counter, gauge, labels_of, written

LABELS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@given(st.lists(st.tuples(LABELS, LABELS, st.integers(0, 2**63)), unique_by=lambda one: one[:2], max_size=5))
def test_what_is_written_is_read_again(series: list[tuple[str, str, int]]) -> None:
    family, bare = counter("licet_some", "Some things."), gauge("licet_bare", "No labels.")
    for service, consumer, count in series:
        family.add(labels_of(service=service, consumer=consumer), count)
    bare.add("", 1.5)
    for content_type, parse in ((TEXT, parse_text), (OPENMETRICS, parse_openmetrics)):
        text = b"".join(written([family, bare], content_type)).decode()
        read = {one.name: one for one in parse(text)}
        found = [
            (sample.labels["service"], sample.labels["consumer"], float(sample.value))
            for sample in read["licet_some"].samples
        ]
        assert found == [(service, consumer, float(count)) for service, consumer, count in series]
        assert [(sample.name, sample.value) for sample in read["licet_bare"].samples] == [("licet_bare", 1.5)]
        assert (read["licet_some"].type, read["licet_some"].documentation) == ("counter", "Some things.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2**63 + 1, "9223372036854775809"), (0.25, "0.25"), (1e21, "1e+21"), (-3, "-3"),
     (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")],
)  # fmt: skip
def test_a_number_is_written_as_go_reads_it(value: float, text: str) -> None:
    family = gauge("licet_some", "Some.")
    family.add("", value)
    assert family.written(TEXT).splitlines()[-1] == f"licet_some {text}"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("text/html, application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6", OPENMETRICS),
        ("application/openmetrics-text; version=x.y", TEXT),
        (";,;=,version", TEXT),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, chosen: str) -> None:
    assert chosen_type(accept) == chosen
