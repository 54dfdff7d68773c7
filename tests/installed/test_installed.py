"""The package in a bare system: from dpkg --install to dpkg --purge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from agent import __version__
from agent.kernel.upgrade import plan
from tests.fixtures import processes
from tests.fixtures.lab import ROOT, Lab
from tests.fixtures.metrics_text import total
from tests.fixtures.namespaces import Namespace
from tests.fixtures.pinned import pinned, still_there
from tests.installed import packages
from tests.installed.bare_system import BareSystem
from tests.installed.packages import NEXT_VERSION

LICENSED, UNLICENSED = 1001, 1002
PORT = 7321
A_SECOND = 200
"""Connections: a port rests for a minute, and none runs out of them, however long it takes."""
PINS = "/sys/fs/bpf/licet"
GATES = ["connect", "bind", "socket", "tc"]
POLICY = f"""\
version: 1
services:
  db: {{product: acme, ports: [{{port: {PORT}, class: internal}}]}}
principals:
  licensed: [{{uid: {LICENSED}}}, {{cidr: 10.77.2.0/24}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""
# dpkg's own memory of a package, and logs of what was done, are no part of it
KEPT_BY_OTHERS = (
    "/var/log/",
    "/var/lib/dpkg/",
    "/var/cache/",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/gshadow-",
)


@pytest.fixture
def enforcing(lab: Lab, bare: BareSystem, deb: Path) -> Iterator[BareSystem]:
    """Installed, configured and running, with a server in its scope."""
    bare.install(deb)
    configure(lab, bare)
    server = lab.serve(lab.host, "::", PORT, workers=2)
    bare.start_agent()
    yield bare
    processes.end(server)


def configure(lab: Lab, bare: BareSystem) -> None:
    namespaces = [str(each.path) for each in (lab.host, lab.container)]
    scope = {"cgroup": lab.scope, "namespaces": namespaces, "interfaces": ["*"]}
    bare.write("/etc/licet/config.yaml", yaml.safe_dump({"scope": scope}))
    bare.write("/etc/licet/policy.yaml", POLICY)


def start_load(lab: Lab, place: Namespace, uid: int, address: str, until_gone: Path) -> subprocess.Popen[str]:
    """Goes on, a second at a time, while the file is there."""
    argv = [lab.executable("load"), address, str(PORT), "--connections", str(A_SECOND)]
    loop = 'flag=$1; shift; while [ -e "$flag" ]; do "$@"; done'
    argv = ["sh", "-c", loop, "sh", until_gone, *argv, "--rate", str(A_SECOND), "--clients", "4"]
    return lab.run(place, argv, uid=uid)


def outcome(output: str) -> Counter[str]:
    """How often which error came of all seconds, and "ok"."""
    found: Counter[str] = Counter()
    for line in output.splitlines():
        second = json.loads(line)
        found.update(second["errors"] | {"ok": second["ok"]})
    return +found


def attempt(lab: Lab, uid: int) -> dict[str, int]:
    """Errors by name of ten connections."""
    return lab.load(lab.host, "127.0.0.1", PORT, connections=10, uid=uid)["errors"]


def files_in(archive: Path) -> dict[str, str]:
    """Text by name, below the one folder that an archive has."""
    with tarfile.open(archive) as opened:
        files = {one.name.partition("/")[2]: opened.extractfile(one) for one in opened.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file}


def test_installed_it_works_from_any_folder_and_observes(lab: Lab, bare: BareSystem, deb: Path) -> None:
    bare.install(deb)
    assert bare.run("licet", "version").stdout.strip() == __version__
    doctor = {one["name"]: one["found"] for one in json.loads(bare.run("licet", "doctor", "--json").stdout)}
    assert doctor["bcc"]
    assert bare.run("getent", "group", "licet").stdout.startswith("licet:")
    assert bare.path("/etc/systemd/system/multi-user.target.wants/licet.service").is_symlink()
    # what is compiled is compiled once: no command writes into /opt
    before = bare.written()
    bare.run("licet", "policy", "check", "/usr/share/doc/licet/examples/policy.yaml")
    assert bare.written() == before
    sample = bare.path("/etc/licet/policy.d/example.yaml.sample").read_text().splitlines()[1:]
    bare.write("/root/example.yaml", "\n".join(line.removeprefix("# ") for line in sample))
    bare.run("licet", "policy", "check", "/root/example.yaml")
    # without a policy it only watches
    bare.write("/etc/licet/config.yaml", yaml.safe_dump({"scope": {"cgroup": lab.scope}}))
    # a module in the folder that a command is called from is not ours
    bare.path("/root/agent").mkdir()
    bare.write("/root/agent/__init__.py", "raise SystemExit('imported from the current folder')")
    bare.run("sh", "-c", "cd /root && licet load")
    bare.run("licet", "unload")
    bare.start_agent()
    server = lab.serve(lab.host, "::", PORT)
    assert attempt(lab, UNLICENSED) == {}
    bare.run("licet", "sysdump", "--output", "/root/dump.tar.gz")
    dump = files_in(bare.path("/root/dump.tar.gz"))
    assert {"daemon/status.json", "daemon/metrics.txt", "doctor.json"} <= dump.keys()
    pinned = json.loads(dump["kernel/pins.json"])
    assert {"targets", "observe_connect4"} <= {Path(one["path"]).name for one in pinned if "id" in one}
    status = json.loads(bare.run("licet", "status", "--json").stdout)
    assert (status["mode"], status["policy"]["targets"]) == ("observe", 0)
    socket = bare.path("/run/licet/control.sock").stat()
    assert bare.run("getent", "group", str(socket.st_gid)).stdout.startswith("licet:")
    processes.end(server)


def test_an_upgrade_under_traffic_lets_nothing_through_and_counts_on(
    lab: Lab, enforcing: BareSystem, next_deb: Path
) -> None:
    remote, host = lab.remote, lab.host
    going = lab.directory / "going"
    going.touch()
    loads = [
        start_load(lab, host, LICENSED, "127.0.0.1", going),
        start_load(lab, remote, LICENSED, host.v4, going),
        start_load(lab, host, UNLICENSED, host.v4, going),
        start_load(lab, remote, UNLICENSED, host.v6, going),
    ]
    before = pinned(enforcing.path(PINS))
    ours = {"/etc/licet/licenses/acme.json": b"{", "/etc/licet/keys/acme.yaml": b"kid: 5f\n"}
    for name, content in ours.items():
        enforcing.path(name).write_bytes(content)
    ours["/var/lib/licet/host.key"] = enforcing.path("/var/lib/licet/host.key").read_bytes()
    enforcing.install(next_deb)
    at_upgrade = enforcing.metrics()
    # what systemd does then
    assert enforcing.stop_agent() == 0
    enforcing.start_agent()
    after_upgrade = enforcing.metrics()
    going.unlink()
    with ThreadPoolExecutor(len(loads)) as pool:
        outputs = [out for out, _ in pool.map(lambda one: one.communicate(timeout=60), loads)]
    results = [outcome(out) for out in outputs]
    assert [set(one) for one in results] == [{"ok"}, {"ok"}, {"EPERM"}, {"ECONNREFUSED"}]
    every = sum(result.total() for result in results)
    assert every >= len(loads) * A_SECOND
    assert total(enforcing.metrics(), "licet_connections_total", service="db") == every
    for (name, labels), value in at_upgrade.items():
        if name.startswith("licet_") and name.endswith("_total") and "map" not in name:
            assert after_upgrade[name, labels] >= value, name
    assert enforcing.run("licet", "version").stdout.strip() == NEXT_VERSION
    assert {name: enforcing.path(name).read_bytes() for name in ours} == ours
    old = still_there(before[0], set())
    assert old == [], "programs of the version before are still in the kernel"
    kept = pinned(enforcing.path(PINS))[1] & before[1]
    assert len(kept) == len(before[1]) - len(plan.ALWAYS_NEW), "maps were not taken over"


def test_removal_while_it_enforces_lets_go_and_purge_leaves_nothing(lab: Lab, enforcing: BareSystem) -> None:
    assert attempt(lab, UNLICENSED) == {"EPERM": 10}
    ours = pinned(enforcing.path(PINS))
    assert still_there(*ours)
    enforcing.dpkg("--remove", "licet")
    assert enforcing.agent.wait(1) == 0
    assert attempt(lab, UNLICENSED) == {}
    # what the kernel itself puts into every bpffs is named *.debug
    assert [one for one in os.listdir(enforcing.path("/sys/fs/bpf")) if not one.endswith(".debug")] == []
    assert still_there(*ours) == []
    assert not os.path.lexists(enforcing.path("/opt/licet"))
    assert enforcing.path("/etc/licet/policy.yaml").exists()
    enforcing.dpkg("--purge", "licet")
    left = [one for one in enforcing.written() if not one.startswith(KEPT_BY_OTHERS)]
    assert [one for one in left if one not in ("/run/netns", "/opt")] == []
    assert enforcing.run("getent", "group", "licet", check=False).returncode != 0


def test_the_rpm_installs_upgrades_and_goes_by_the_same_scripts(lab: Lab, bare: BareSystem) -> None:
    rpm, next_rpm = packages.rpms_for_the_bare_system()
    bare.rpm("--install", rpm)
    assert bare.run("licet", "version").stdout.strip() == __version__
    assert bare.run("getent", "group", "licet").stdout.startswith("licet:")
    configure(lab, bare)
    server = lab.serve(lab.host, "::", PORT, workers=2)
    bare.start_agent()
    # rpm calls the scripts of the new version first, then those of the one before
    before = pinned(bare.path(PINS))
    bare.rpm("--upgrade", next_rpm)
    assert pinned(bare.path(PINS)) == before
    assert attempt(lab, UNLICENSED) == {"EPERM": 10}
    assert bare.run("licet", "version").stdout.strip() == NEXT_VERSION
    bare.rpm("--erase", "licet")
    assert bare.agent.wait(1) == 0
    assert still_there(*before) == []
    assert not os.path.lexists(bare.path("/opt/licet"))
    # what an administrator wrote is kept: rpm has no purge
    assert bare.path("/etc/licet/policy.yaml").exists()
    assert bare.path("/etc/licet/config.yaml.rpmsave").exists()
    processes.end(server)


def test_confined_as_by_the_unit_it_does_all_it_does(lab: Lab, bare: BareSystem, deb: Path) -> None:
    bare.install(deb)
    configure(lab, bare)
    server = lab.serve(lab.host, "::", PORT, workers=2, uid=LICENSED)
    bare.start_agent(*confinement(bare))
    assert attempt(lab, LICENSED) == {}
    assert attempt(lab, UNLICENSED) == {"EPERM": 10}
    remote = lab.load(lab.remote, lab.host.v6, PORT, connections=10, uid=UNLICENSED)
    assert remote["errors"] == {"ECONNREFUSED": 10}
    # a process of another user is named
    listeners = json.loads(bare.run("licet", "listeners", "--json").stdout)
    (listener,) = [one for one in listeners if one["port"] == PORT]
    assert server.pid in [owner["pid"] for owner in listener["owners"]]
    status = json.loads(bare.run("licet", "status", "--json").stdout)
    assert [gate["gate"] for gate in status["gates"] if gate["attached_to"]] == GATES
    socket = bare.path("/run/licet/control.sock").stat()
    assert bare.run("getent", "group", str(socket.st_gid)).stdout.startswith("licet:")
    bare.wait_told("WATCHDOG=1")
    bare.agent.send_signal(signal.SIGHUP)
    bare.wait_told("RELOADING=1")
    bare.wait_told("READY=1")
    assert bare.stop_agent() == 0
    bare.wait_told("STOPPING=1")
    assert [line for line in bare.log().splitlines() if line.startswith("licet:")] == []
    processes.end(server)


# ProtectSystem=strict, ReadOnlyPaths, ProtectControlGroups, MemoryDenyWriteExecute (prctl(2), from
# Linux 6.3 on; systemd adds a system call filter that says the same on older kernels)
CONFINE = """\
mkdir -p /run/licet /var/lib/licet
for folder in /run/licet /var/lib/licet /var/log/licet; do mount --bind "$folder" "$folder"; done
mount -o remount,bind,ro /
for mount in $(awk '$5 ~ "^/sys" && $5 !~ "^/sys/fs/bpf" {print $5}' /proc/self/mountinfo); do
    mount -o remount,bind,ro "$mount"
done
for folder in /etc /sys/fs/cgroup; do if [ -w "$folder" ]; then exit 99; fi; done
exec "$@"
"""
DENY_WRITE_EXECUTE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


def confinement(bare: BareSystem) -> list[str]:
    """A command that execs another as the unit would, as far as that can be had without systemd."""
    unit = (ROOT / "packaging/host/licet.service").read_text().splitlines()
    (line,) = [line for line in unit if line.startswith("CapabilityBoundingSet=")]
    capabilities = [name.lower().removeprefix("cap_") for name in line.partition("=")[2].split()]
    group = bare.run("getent", "group", "licet").stdout.split(":")[2]
    return [
        *("unshare", "--mount", "--propagation", "slave", "sh", "-ceu", CONFINE, "sh"),
        *("/usr/bin/python3", "-c", DENY_WRITE_EXECUTE),
        *("setpriv", "--no-new-privs", "--groups", group),
        "--bounding-set=" + ",".join(["-all", *(f"+{name}" for name in capabilities)]),
        "--",
    ]
