"""The two text formats, read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.export.families import counter, encoder, gauge, written

LABELS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@given(st.lists(st.tuples(LABELS, LABELS, st.integers(0, 2**63)), unique_by=lambda one: one[:2], max_size=5))
def test_what_is_written_is_read_again(series: list[tuple[str, str, int]]) -> None:
    family, bare = counter("licet_some", "Some things."), gauge("licet_bare", "No labels.")
    for service, consumer, count in series:
        family.add({"service": service, "consumer": consumer}, count)
    bare.add({}, 1.5)
    for accept, parse in (
        ("", parse_text),
        ("application/openmetrics-text;version=1.0.0", parse_openmetrics),
    ):
        text = b"".join(written([family, bare], encoder(accept)[0])).decode()
        read = {one.name: one for one in parse(text)}
        found = [
            (sample.labels["service"], sample.labels["consumer"], float(sample.value))
            for sample in read["licet_some"].samples
        ]
        assert found == [(service, consumer, float(count)) for service, consumer, count in series]
        assert [(sample.name, sample.value) for sample in read["licet_bare"].samples] == [("licet_bare", 1.5)]
        assert (read["licet_some"].type, read["licet_some"].documentation) == ("counter", "Some things.")


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("text/html, application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6", True),
        ("application/openmetrics-text; version=x.y", False),
        (";,;=,version", False),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, is_openmetrics: bool) -> None:
    encode, content_type = encoder(accept)
    assert content_type.startswith("application/openmetrics-text" if is_openmetrics else "text/plain")
    text = b"".join(written([counter("licet_a", "A."), gauge("licet_b", "B.")], encode)).decode()
    assert text.count("# EOF\n") == text.endswith("# EOF\n") == is_openmetrics
