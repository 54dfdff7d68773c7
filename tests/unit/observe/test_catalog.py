from __future__ import annotations

import pytest

from agent.model import PortClass, Protocol
from agent.observe.catalog import _ENTRIES, _ROWS, well_known


@pytest.mark.parametrize(
    ("port", "name", "port_class"),
    [
        (5432, "postgres", PortClass.INTERNAL),
        (6379, "redis", PortClass.INTERNAL),
        (2375, "docker without tls", PortClass.ADMIN),
        (10250, "kubelet", PortClass.ADMIN),
        (9229, "node debugger", PortClass.ADMIN),
        (27000, "flexlm", PortClass.INTERNAL),
        (27009, "flexlm", PortClass.INTERNAL),
    ],
)
def test_common_internal_ports_are_known(port: int, name: str, port_class: PortClass) -> None:
    entry = well_known(Protocol.TCP, port)
    assert entry is not None
    assert (entry.name, entry.port_class) == (name, port_class)


@pytest.mark.parametrize("port", [22, 25, 53, 80, 443, 8080, 0, 65535])
def test_public_ports_are_no_finding(port: int) -> None:
    assert well_known(Protocol.TCP, port) is None


def test_a_protocol_that_does_not_serve_it_is_no_finding() -> None:
    assert well_known(Protocol.UDP, 5432) is None
    assert well_known(Protocol.UDP, 11211) is not None


def test_no_port_stands_twice() -> None:
    assert len(_ENTRIES) == sum(len(row[0]) * (row[2] - row[1] + 1) for row in _ROWS)


def test_every_entry_says_in_a_few_words_what_is_at_stake() -> None:
    for entry in _ENTRIES.values():
        assert entry.port_class in (PortClass.INTERNAL, PortClass.ADMIN)
        assert entry.why == entry.why.strip(" .")
        assert 1 <= len(entry.why.split()) <= 12
