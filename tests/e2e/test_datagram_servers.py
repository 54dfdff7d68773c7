"""UDP of real servers and their clients: dnsmasq and dig, two chronyd as peers on port 123, QUIC, and
metrics in the manner of statsd."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since
from tests.fixtures.waiting import wait_for

LICENSED, UNLICENSED = 1001, 1002
DNS, NTP, QUIC, STATS = 5353, 123, 5443, 5125
CHRONY = Path(__file__).parents[2] / "build/chrony/usr"
"""Where `make test` unpacks it: installed, it would replace the host's own time daemon."""
POLICY = f"""\
version: 1
services:
  dns: {{product: acme, ports: [{{port: {DNS}, protocol: udp, class: internal}}]}}
  ntp: {{product: acme, ports: [{{port: {NTP}, protocol: udp, class: internal}}]}}
  quic: {{product: acme, ports: [{{port: {QUIC}, protocol: udp, class: internal}}]}}
  stats: {{product: acme, ports: [{{port: {STATS}, protocol: udp, class: internal}}]}}
principals:
  licensed: [{{uid: {LICENSED}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: MODE}}
"""


@pytest.fixture(scope="module", params=["observe", "enforce"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, mode: str) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY.replace("MODE", mode)) as running:
        yield running


@pytest.fixture(scope="module")
def dns(shared_lab: Lab) -> None:
    argv = ["--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root", "--pid-file="]
    argv += [f"--port={DNS}", "--address=/name.test/192.0.2.7"]
    server = shared_lab.run(shared_lab.host, [shutil.which("dnsmasq") or "dnsmasq", *argv])
    wait_for(
        lambda: shared_lab.call(shared_lab.remote, dig("10.77.2.1"), check=False).returncode == 0,
        f"dnsmasq answers ({server.poll()})",
    )


def dig(address: str, *options: str) -> list[str]:
    return ["dig", f"@{address}", "-p", str(DNS), "+short", "+tries=1", "+timeout=1", *options, "name.test"]


def answers(lab: Lab, place: Namespace, address: str, *options: str, uid: int | None = None) -> bool:
    done = lab.call(place, dig(address, *options), check=False, uid=uid)
    return done.stdout.strip() == "192.0.2.7"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.77.1.1"])
@pytest.mark.parametrize("where", ["host", "container"])
def test_dig_asks_dnsmasq(
    shared_lab: Lab, dns: None, agent: RunningAgent, mode: str, where: str, address: str
) -> None:
    if where == "container" and address == "127.0.0.1":
        pytest.skip("its own loopback")
    place: Namespace = getattr(shared_lab, where)
    origin = {"host": "loopback", "container": "container"}[where]
    before = connections(agent, "dns")
    assert [answers(shared_lab, place, address, uid=LICENSED) for _ in range(5)] == [True] * 5
    assert since(before, agent, "dns") == {(origin, "allowed"): 5}, "each dig has a socket of its own"
    assert answers(shared_lab, place, address, uid=UNLICENSED) is (mode == "observe")
    assert since(before, agent, "dns")[origin, "denied"] >= 1


def test_dig_asks_from_elsewhere(shared_lab: Lab, dns: None, agent: RunningAgent, mode: str) -> None:
    before = connections(agent, "dns")
    said = [answers(shared_lab, shared_lab.remote, "10.77.2.1") for _ in range(5)]
    assert said == [mode == "observe"] * 5
    assert since(before, agent, "dns").keys() <= {("remote", "denied")}
    assert sum(since(before, agent, "dns").values()) <= 1, "one address, whatever its ports"


def chronyd(lab: Lab, place: Namespace, name: str, *lines: str) -> tuple[Path, subprocess.Popen[str]]:
    """-x: it leaves the clock alone."""
    folder = lab.directory / f"chrony-{name}"
    folder.mkdir(mode=0o750)  # or it has no control socket there
    control = [f"bindcmdaddress {folder}/sock", f"pidfile {folder}/pid", "cmdport 0"]
    ports = [f"port {NTP}", f"acquisitionport {NTP}", "local stratum 8"]
    (folder / "conf").write_text("\n".join([*lines, *control, *ports, ""]))
    server = lab.run(place, [CHRONY / "sbin/chronyd", "-x", "-d", "-u", "root", "-f", str(folder / "conf")])
    wait_for((folder / "sock").exists, f"chronyd {name} runs")
    return folder / "sock", server


def reached(lab: Lab, place: Namespace, control: Path) -> bool:
    """Has its one source ever answered? The register of the last eight is octal."""
    done = lab.call(place, [CHRONY / "bin/chronyc", "-h", str(control), "-c", "sources"], check=False)
    return any(line.split(",")[5] != "0" for line in done.stdout.splitlines() if line.count(",") > 6)


@pytest.mark.skipif(not CHRONY.exists(), reason="chrony is not unpacked in build/chrony (make test does)")
def test_a_time_server_elsewhere_answers_port_123_from_port_123(
    shared_lab: Lab, agent: RunningAgent, mode: str
) -> None:
    """Both ends use the declared port; the host asks, and nobody is licensed to ask the host."""
    before = connections(agent, "ntp")
    _, there = chronyd(shared_lab, shared_lab.remote, f"remote-{mode}", "allow all")
    asks = "server 10.77.2.2 iburst minpoll 0 maxpoll 0"
    control, here = chronyd(shared_lab, shared_lab.host, f"host-{mode}", asks, "allow all")
    wait_for(lambda: reached(shared_lab, shared_lab.host, control), "an answer", timeout_s=20)
    assert since(before, agent, "ntp") == {}
    processes.end(here)
    processes.end(there)


QUIC_ENDS = """
import asyncio, datetime, sys
from pathlib import Path
from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

def certificate():
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    return made.sign(key, hashes.SHA256()), key

async def answer(reader, writer):
    writer.write(await reader.read())
    writer.write_eof()

async def server(address, port):
    configuration = QuicConfiguration(is_client=False)
    configuration.certificate, configuration.private_key = certificate()
    echo = lambda reader, writer: asyncio.ensure_future(answer(reader, writer))
    await serve(address, port, configuration=configuration, stream_handler=echo)
    print("ready", flush=True)
    await asyncio.Event().wait()

async def client(address, port):
    configuration = QuicConfiguration(verify_mode=False, server_name="name.test")
    async with connect(address, port, configuration=configuration) as connection:
        reader, writer = await connection.create_stream()
        writer.write(bytes(200_000))
        writer.write_eof()
        print(len(await reader.read()))

async def main(end, address, port):
    async with asyncio.timeout(3 if end == "client" else None):
        await (client if end == "client" else server)(address, int(port))

try:
    asyncio.run(main(*sys.argv[1:]))
except (TimeoutError, OSError) as error:
    print(type(error).__name__)
"""


def quic(end: str, address: str) -> list[str]:
    return [sys.executable, "-Iuc", QUIC_ENDS, end, address, str(QUIC)]


@pytest.mark.parametrize("where", ["host", "container", "remote"])
def test_quic(shared_lab: Lab, agent: RunningAgent, mode: str, where: str) -> None:
    """200 kB there and back, on one socket: one attempt."""
    pytest.importorskip("aioquic")
    server = shared_lab.run(shared_lab.host, quic("server", "10.77.1.1"))
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    before = connections(agent, "quic")
    place: Namespace = getattr(shared_lab, where)
    origin = {"host": "loopback", "container": "container", "remote": "remote"}[where]
    if where != "remote":
        licensed = shared_lab.call(place, quic("client", "10.77.1.1"), uid=LICENSED).stdout
        assert licensed == "200000\n"
        assert since(before, agent, "quic") == {(origin, "allowed"): 1}
    unlicensed = shared_lab.call(place, quic("client", "10.77.1.1"), uid=UNLICENSED).stdout
    assert (unlicensed == "200000\n") is (mode == "observe"), unlicensed
    assert since(before, agent, "quic")[origin, "denied"] == 1
    processes.end(server)


COUNT = """
import signal, socket, sys
served = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
served.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
served.bind(("10.77.1.1", int(sys.argv[1])))
print("ready", flush=True)
seen = 0
while served.recv(100) != b"end":
    seen += 1
print(seen, flush=True)
"""
TELL = """
import socket, sys, time
connected, count, end = sys.argv[2] == "connected", int(sys.argv[3]), sys.argv[4] == "end"
sender, to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), ("10.77.1.1", int(sys.argv[1]))
refused = 0
for number in range(count + end):
    data = b"end" if number == count else b"requests:1|c"
    try:
        if connected and not number:
            sender.connect(to)
        sender.send(data) if connected else sender.sendto(data, to)
    except OSError:
        refused += 1
    if number % 50 == 0:
        time.sleep(0.005)  # its pace: the receiver is to lose none
print(refused)
"""


@pytest.mark.parametrize("way", ["connected", "by address"])
@pytest.mark.parametrize("where", ["host", "container"])
def test_metrics_that_nobody_answers(
    shared_lab: Lab, agent: RunningAgent, mode: str, where: str, way: str
) -> None:
    """None of those licensed is lost, none of the others arrives, and either sender is one attempt."""
    place: Namespace = getattr(shared_lab, where)
    origin = {"host": "loopback", "container": "container"}[where]
    server = shared_lab.run(shared_lab.host, [processes.PYTHON, "-ISuc", COUNT, str(STATS)])
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    before = connections(agent, "stats")
    tell = [processes.PYTHON, "-ISc", TELL, str(STATS), way, "2000"]
    refused = shared_lab.call(place, [*tell, ""], uid=UNLICENSED).stdout.strip()
    assert shared_lab.call(place, [*tell, "end"], uid=LICENSED).stdout.strip() == "0"
    assert server.communicate(timeout=10)[0] == ("4000\n" if mode == "observe" else "2000\n")
    assert refused == ("0" if mode == "observe" else "2000")
    assert since(before, agent, "stats") == {(origin, "denied"): 1, (origin, "allowed"): 1}
