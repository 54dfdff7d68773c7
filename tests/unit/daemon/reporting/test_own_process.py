"""What a process uses, as Prometheus' client library reads it."""

from __future__ import annotations

import pytest
from prometheus_client import ProcessCollector

from agent.daemon.reporting.own_process import own_process


def test_it_is_what_the_client_library_reads() -> None:
    expected = {
        sample.name: sample.value
        for family in ProcessCollector(registry=None).collect()
        for sample in family.samples
    }
    found = own_process()
    assert found.cpu_s == pytest.approx(expected["process_cpu_seconds_total"], abs=0.5)
    assert found.resident_bytes == pytest.approx(expected["process_resident_memory_bytes"], rel=0.05)
    assert found.virtual_bytes == pytest.approx(expected["process_virtual_memory_bytes"], rel=0.05)
    assert found.started_unix_s == pytest.approx(expected["process_start_time_seconds"], abs=2)
    assert found.descriptors == pytest.approx(expected["process_open_fds"], abs=2)
    assert found.most_descriptors == expected["process_max_fds"]


def test_it_has_started_once() -> None:
    assert own_process().started_unix_s == own_process().started_unix_s
