from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.export import flow_texts
from agent.export.events import flow_fields
from agent.export.flow_texts import FlowTexts
from agent.export.sanitize import to_json
from agent.model import Container, Flow, Origin, Process, to_address
from tests.unit.export.fake_agent import ADMIN, INTERNAL, flow

PROCESSES = st.builds(
    Process,
    pid=st.integers(1, 9),
    exe=st.sampled_from(["", "/usr/bin/psql", "/tmp/\udcff", '/tmp/"x"', "/tmp/\x1b[31m"]),
    comm=st.text(max_size=3),
    uid=st.none() | st.just(0),
    gids=st.sampled_from([(), (0, 4)]),
    container=st.none() | st.just(Container(id="ab12", name="web")),
)
FLOWS: Any = st.builds(
    flow,
    cookie=st.integers(1, 2**63),
    consumer=st.none() | PROCESSES,
    owner=st.none() | PROCESSES,
    acceptor=st.none() | PROCESSES,
    consumer_address=st.sampled_from([to_address("10.0.0.7"), to_address("2001:db8::7")]),
    consumer_port=st.sampled_from([0, 40001]),
    origin=st.sampled_from(list(Origin)),
    established=st.booleans(),
    opened_boot_ns=st.integers(0, 10**15),
)


@given(st.lists(FLOWS, max_size=5))
def test_the_text_is_that_of_the_fields(flows: list[Flow]) -> None:
    texts = FlowTexts()
    for one in flows:
        for target in (INTERNAL, ADMIN):
            assert texts.of(target, one) == to_json(flow_fields(target, one))


def test_a_process_is_serialized_once_and_as_few_are_remembered_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Process] = []

    def fields(process: Process) -> dict[str, Any]:
        asked.append(process)
        return {"pid": process.pid}

    monkeypatch.setattr(flow_texts, "process_fields", fields)
    monkeypatch.setattr(flow_texts, "KNOWN_PROCESSES", 2)
    one, other, third = (Process(pid=pid) for pid in (1, 2, 3))
    texts, bare = FlowTexts(), replace(flow(), consumer=None, acceptor=None)
    for process in (one, other, one, other, third, one):
        assert f'"owner":{{"pid":{process.pid}}}' in texts.of(INTERNAL, replace(bare, owner=process))
    assert asked == [one, other, third, one]
