"""The package on a host: installed, started, enforcing, hung, killed, upgraded: one after the other."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import __version__
from agent.daemon.reporting.coverage import CHANGED_ON_ITS_WAY
from tests.fixtures.metrics_text import total
from tests.fixtures.waiting import wait_for
from tests.host import machine
from tests.installed.packages import NEXT_VERSION


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    machine.apt("install", machine.package(__version__))


@pytest.fixture(scope="module")
def enforcing() -> None:
    """With a policy that only observes, and the override of an operator."""
    machine.serve()
    Path("/etc/licet/config.yaml").write_text('scope: {interfaces: ["*"]}\n')
    machine.run("systemctl", "restart", "licet")
    Path("/etc/licet/policy.yaml").write_text(machine.POLICY)
    machine.run("systemctl", "reload", "licet")
    wait_for(lambda: machine.licet("status")["policy"]["targets"] == 1, "the policy is in force")
    assert machine.attempt("intruder") == "ok", "observed only"
    machine.run("licet", "mode", "enforce", "--yes")


def test_apt_starts_it_and_it_observes() -> None:
    machine.wait_until_ready()
    status = machine.licet("status")
    assert (status["version"], status["mode"], status["ready"]) == (__version__, "observe", True)
    assert status["scope"]["cgroup"] == "/"
    assert machine.unit("UnitFileState") == "enabled"
    assert machine.unit("NRestarts") == "0"
    assert machine.complaints() == []
    accept = next(hook for hook in status["hooks"] if hook["hook"] == "accept")
    assert accept["rung"] == "fexit"


def test_units_are_judged_named_and_refused(enforcing: None) -> None:
    assert machine.attempt("billing") == "ok"
    assert machine.attempt("intruder") == "EPERM"
    told = [one for one in machine.events() if one["type"] == "violation"]
    assert {one["consumer"]["unit"] for one in told} == {"intruder.service"}
    assert {one["owner"]["unit"] for one in told} == {"orders.service"}
    assert [one["enforced"] for one in told] == [False, True]
    samples = machine.metrics()
    assert total(samples, "licet_connections_total", service="orders") == 3
    assert total(samples, "licet_refused_total", service="orders") == 1
    assert total(samples, "licet_violations_by_consumer_total", consumer="intruder.service") == 2
    status = machine.licet("status")
    gates = [gate["gate"] for gate in status["gates"] if gate["attached_to"]]
    assert gates == ["connect", "bind", "socket", "tc"]
    assert len(list(Path("/var/lib/licet/programs").iterdir())) == 3, "as its unit may write"
    # this kernel's sockops programs know no process
    assert CHANGED_ON_ITS_WAY[0] in [one["what"] for one in status["not_covered"]]
    assert machine.complaints() == []


def test_its_unit_allows_more_than_it_takes(enforcing: None) -> None:
    """The loader's memory and the kernel's tables are charged to it."""
    group = Path("/sys/fs/cgroup") / machine.unit("ControlGroup").lstrip("/")
    allowed = int(machine.unit("MemoryMax"))
    assert allowed == 1 << 30
    assert int((group / "memory.peak").read_text()) < allowed / 2
    assert 0 < int(machine.unit("TasksCurrent")) < int(machine.unit("TasksMax")) / 2


SOCKET_PORT = 7323
SOCKETS = Path("/etc/systemd/system")


def test_a_socket_unit_is_its_services(enforcing: None) -> None:
    """pid 1 binds and listens; with filters of its own, the unit has a child of pid 1 do it."""
    policy = machine.POLICY.replace(
        "\nprincipals:",
        "\n  mail: {product: acme, owner: [{unit: mail.service}], "
        f"ports: [{{port: {SOCKET_PORT}, class: internal}}]}}\nprincipals:",
    )
    Path("/etc/licet/policy.yaml").write_text(policy)
    machine.run("systemctl", "reload", "licet")
    wait_for(lambda: machine.licet("status")["policy"]["targets"] == 2, "the policy is in force")
    serve = f"ExecStart={sys.executable} -c 'import socket; socket.socket(fileno=3).accept()'"
    (SOCKETS / "mail.service").write_text(f"[Service]\n{serve}\n")
    try:
        for option in ("", "IPAddressAllow=any\nIPAddressDeny=192.0.2.0/24\n"):
            (SOCKETS / "mail.socket").write_text(f"[Socket]\nListenStream=127.0.0.1:{SOCKET_PORT}\n{option}")
            machine.run("systemctl", "daemon-reload")
            machine.run("systemctl", "restart", "mail.socket")
            machine.run("systemctl", "is-active", "mail.socket")
            wait_for(
                lambda: (
                    [one["states"] for one in machine.licet("listeners") if one["port"] == SOCKET_PORT]
                    == [["declared"]]
                ),
                "it is declared before the first activation, once it is known who holds it",
                timeout_s=30,
            )
            machine.run("systemctl", "start", "mail.service")
            machine.run("systemctl", "stop", "mail.socket", "mail.service")
        bind = f"import socket; socket.socket().bind(('127.0.0.1', {SOCKET_PORT}))"
        said = machine.run(
            "systemd-run", "--wait", "--pipe", "--collect", sys.executable, "-c", bind, check=False
        )
        told = [one for one in machine.events() if (one["type"], one.get("service")) == ("listener", "mail")]
        assert said == ""
        assert [one.get("enforced") for one in told] == [True], told
        assert machine.complaints() == []
    finally:
        machine.run("systemctl", "stop", "mail.socket", "mail.service", check=False)
        for file in SOCKETS.glob("mail.*"):
            file.unlink()
        machine.run("systemctl", "daemon-reload")
        Path("/etc/licet/policy.yaml").write_text(machine.POLICY)
        machine.run("systemctl", "reload", "licet")
        wait_for(lambda: machine.licet("status")["policy"]["targets"] == 1, "the policy is in force again")


def test_a_namespace_that_appears_gets_its_gates(enforcing: None) -> None:
    """As the unit is confined: setns() and netlink are allowed, and what they need."""
    machine.run("ip", "netns", "add", "box")
    machine.run("ip", "link", "add", "to-box", "type", "veth", "peer", "name", "inside", "netns", "box")
    filters = ("tc", "-n", "box", "filter", "show", "dev", "inside", "ingress")
    wait_for(lambda: "licet" in machine.run(*filters, check=False), "a filter in the namespace")
    machine.run("ip", "netns", "del", "box")


def test_an_interface_that_networkd_makes_again_has_its_filter(enforcing: None) -> None:
    folder = Path("/etc/systemd/network")
    (folder / "50-shop.netdev").write_text("[NetDev]\nName=shop\nKind=veth\n[Peer]\nName=to-shop\n")
    (folder / "50-shop.network").write_text("[Match]\nName=shop\n[Network]\nAddress=10.99.0.1/24\n")
    filters = ("tc", "filter", "show", "dev", "shop", "ingress")
    for _ in range(2):
        machine.run("systemctl", "restart", "systemd-networkd")
        wait_for(lambda: Path("/sys/class/net/shop").exists(), "networkd makes the interface")
        wait_for(lambda: "licet" in machine.run(*filters, check=False), "its filter")
        machine.run("ip", "link", "del", "shop")
    for file in folder.glob("50-shop.*"):
        file.unlink()
    machine.run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd")
    assert machine.complaints() == []


def test_a_daemon_that_hangs_is_replaced_and_the_kernel_judges_on(enforcing: None) -> None:
    before = total(machine.metrics(), "licet_connections_total", service="orders")
    folder = Path("/etc/systemd/system/licet.service.d")
    folder.mkdir()
    (folder / "watchdog.conf").write_text("[Service]\nWatchdogSec=15s\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "licet")
    pid = int(machine.unit("MainPID"))
    os.kill(pid, signal.SIGSTOP)
    assert machine.attempt("intruder") == "EPERM"
    assert machine.attempt("billing") == "ok"
    wait_for(lambda: machine.unit("MainPID") not in ("0", str(pid)), "systemd starts another", timeout_s=30)
    machine.wait_until_ready()
    assert machine.unit("NRestarts") == "1"
    shutil.rmtree(folder)
    machine.run("systemctl", "daemon-reload")
    assert total(machine.metrics(), "licet_connections_total", service="orders") == before + 2


def test_a_daemon_that_is_killed_comes_back(enforcing: None) -> None:
    before = total(machine.metrics(), "licet_connections_total", service="orders")
    os.kill(int(machine.unit("MainPID")), signal.SIGKILL)
    assert machine.attempt("intruder") == "EPERM"
    wait_for(lambda: machine.unit("NRestarts") == "2", "systemd starts another", timeout_s=30)
    machine.wait_until_ready()
    assert total(machine.metrics(), "licet_connections_total", service="orders") == before + 1


def test_an_upgrade_under_traffic_lets_nothing_through_and_counts_on(enforcing: None) -> None:
    before = total(machine.metrics(), "licet_connections_total", service="orders")
    going = Path("/run/going")  # where every user sees it
    going.touch()
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(machine.attempts, name, going) for name in ("billing", "intruder")]
        try:
            machine.apt("install", machine.package(NEXT_VERSION))
            machine.wait_until_ready()
        finally:
            going.unlink()
        allowed, refused = (load.result() for load in loads)
    assert set(allowed) == {"ok"}
    assert set(refused) == {"EPERM"}
    assert min(allowed["ok"], refused["EPERM"]) > 10
    assert machine.licet("status")["version"] == NEXT_VERSION
    after = total(machine.metrics(), "licet_connections_total", service="orders")
    assert after == before + allowed.total() + refused.total()
    assert machine.licet("status")["mode"] == "enforce"
