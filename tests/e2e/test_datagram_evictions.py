"""What a full table of UDP has pushed out is counted, also what was pushed out right after the start."""

from __future__ import annotations

import sys

from tests.fixtures.lab import Lab
from tests.fixtures.waiting import wait_for

USER, PORT, ROWS = 1002, 5310, 16_384
POLICY = f"""\
version: 1
services:
  dns: {{product: acme, ports: [{{port: {PORT}, protocol: udp, class: internal}}]}}
principals:
  licensed: [{{uid: 1001}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
"""
FLOOD = f"""
import socket
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.bind(("127.0.0.1", {PORT}))
for number in range({2 * ROWS}):
    end.sendto(b"x", (f"127.1.{{number >> 8}}.{{number & 255}}", 9))
"""


def test_rows_that_are_pushed_out_right_after_the_start_are_counted(lab: Lab) -> None:
    """Each datagram from a declared port makes a row, so half of them find no room."""
    with lab.agent(POLICY) as agent:
        lab.call(lab.host, [sys.executable, "-c", FLOOD], uid=USER)
        lost = lambda: agent.status()["losses"]["datagrams"]  # noqa: E731
        wait_for(lambda: lost() >= ROWS, "what was pushed out is counted", timeout_s=90)
        assert lost() <= 2 * ROWS
