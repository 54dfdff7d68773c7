"""UDP of real servers and their clients: dnsmasq and dig, and two chronyd as peers on port 123."""

from __future__ import annotations

import shutil
import subprocess
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
DNS, NTP = 5353, 123
POLICY = f"""\
version: 1
services:
  dns: {{product: acme, ports: [{{port: {DNS}, protocol: udp, class: internal}}]}}
  ntp: {{product: acme, ports: [{{port: {NTP}, protocol: udp, class: internal}}]}}
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
    server = lab.run(place, ["chronyd", "-x", "-d", "-u", "root", "-f", str(folder / "conf")])
    wait_for((folder / "sock").exists, f"chronyd {name} runs")
    return folder / "sock", server


def reached(lab: Lab, place: Namespace, control: Path) -> bool:
    """Has its one source ever answered? The register of the last eight is octal."""
    done = lab.call(place, ["chronyc", "-h", str(control), "-c", "sources"], check=False)
    return any(line.split(",")[5] != "0" for line in done.stdout.splitlines() if line.count(",") > 6)


@pytest.mark.skipif(not shutil.which("chronyd"), reason="its package replaces the host's own time daemon")
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
