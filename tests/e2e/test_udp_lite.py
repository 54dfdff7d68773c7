"""UDP-Lite is another protocol than UDP, and its connect() runs no hook, as docs/enforcement.md says."""

from __future__ import annotations

import errno

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.saying import connections

PORT = 7396
POLICY = f"""\
version: 1
services:
  names: {{product: acme, ports: [{{port: {PORT}, protocol: udp, class: internal}}]}}
principals:
  licensed: [{{uid: 1001}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""
SENDS = """
import socket, sys
protocol, port = int(sys.argv[1]), int(sys.argv[2])
serving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, protocol)
serving.bind(("127.0.0.1", port))
serving.settimeout(5)
sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, protocol)
error = sending.connect_ex(("127.0.0.1", port))
if not error:
    sending.send(b"x")
    serving.recv(1)
print(error)
"""
UDP, UDP_LITE = 17, 136


def test_udp_is_refused_and_udp_lite_is_neither_refused_nor_counted(lab: Lab) -> None:
    with lab.agent(POLICY) as agent:
        for protocol, error in ((UDP, errno.EPERM), (UDP_LITE, 0)):
            argv = [processes.PYTHON, "-Ic", SENDS, str(protocol), str(PORT)]
            assert int(lab.call(lab.host, argv, uid=1002).stdout) == error
        assert connections(agent, "names") == {("loopback", "denied"): 1}
