"""Flows as JSON text, for long lists. A process is serialized once, because thousands of flows have a few."""

from __future__ import annotations

from agent.export.events import consumer_fields, flow_facts, flow_tuple_fields, process_fields
from agent.export.sanitize import to_json
from agent.model import Flow, Process, Target

KNOWN_PROCESSES = 1024
"""Limit for processes whose text is remembered."""


class FlowTexts:
    """One list of flows: each as to_json(flow_fields(…)) has it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Process, str]] = {}
        """By id(), beside the process that keeps the id its own."""

    def of(self, target: Target, flow: Flow) -> str:
        facts, endpoints = to_json(flow_facts(target, flow)), to_json(flow_tuple_fields(flow))
        owner, acceptor = self._process(flow.owner), self._process(flow.acceptor)
        return (
            f'{facts[:-1]},"consumer":{self._consumer(flow)},"owner":{owner},"acceptor":{acceptor},'
            f'"tuple":{endpoints}}}'
        )

    def _consumer(self, flow: Flow) -> str:
        if flow.consumer is None:
            return to_json(consumer_fields(None, flow.consumer_address))
        return f'{{"identity":"process",{self._process(flow.consumer)[1:]}'

    def _process(self, process: Process | None) -> str:
        if process is None:
            return "{}"
        if id(process) not in self._known:
            if len(self._known) >= KNOWN_PROCESSES:
                self._known.clear()
            self._known[id(process)] = process, to_json(process_fields(process))
        return self._known[id(process)][1]
