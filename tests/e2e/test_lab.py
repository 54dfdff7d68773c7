"""The laboratory itself: what the other tests stand on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import cgroups, leftovers, names, namespaces, processes
from tests.fixtures.lab import Lab
from tests.fixtures.metrics_text import parse_metrics, total
from tests.fixtures.processes import wait_until_listening

WHO = """
import json, os, socket
print(json.dumps({
    "ids": os.getresuid() + os.getresgid(), "groups": os.getgroups(),
    "cgroup": open("/proc/self/cgroup").read(), "netns": os.readlink("/proc/self/ns/net"),
    "links": [name for _, name in socket.if_nameindex()]}))
"""


def is_running(pid: int) -> bool:
    """A zombie that its new parent has not reaped yet does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def who(lab: Lab, **run: object) -> dict[str, object]:
    return json.loads(lab.call(lab.container, [processes.PYTHON, "-Ic", WHO], **run).stdout)


def test_a_process_has_the_namespace_cgroup_and_ids_it_was_given(lab: Lab) -> None:
    seen = who(lab, cgroup="billing.service", uid=1234, gid=1235, groups=[7, 8])
    assert seen["ids"] == [1234, 1234, 1234, 1235, 1235, 1235]
    assert seen["groups"] == [7, 8]
    assert f"0::{lab.scope}/billing.service\n" in str(seen["cgroup"])
    with namespaces.entered(lab.container):
        assert seen["netns"] == os.readlink("/proc/thread-self/ns/net")
    assert sorted(seen["links"]) == ["eth0", "lo"]


def test_a_uid_alone_drops_every_group_of_root(lab: Lab) -> None:
    seen = who(lab, uid=1234)
    assert seen["ids"] == [1234] * 6
    assert seen["groups"] == []


def test_a_remote_process_is_outside_the_scope(lab: Lab) -> None:
    path = lab.call(lab.remote, ["cat", "/proc/self/cgroup"]).stdout
    assert f"0::{lab.scope}\n" not in path
    assert f"0::{lab.scope}-outside\n" in path


@pytest.mark.parametrize("bind", ["v4", "v6"])
def test_every_namespace_reaches_every_other_at_once(lab: Lab, bind: str) -> None:
    places = (lab.host, lab.container, lab.remote)
    for port, place in enumerate(places, start=7000):
        address = getattr(place, bind)
        lab.serve(place, address, port)
        for client in places:
            assert lab.load(client, address, port)["ok"] == 1, f"{client.name} to {address}"


def test_the_generator_counts_what_failed_by_errno(lab: Lab) -> None:
    result = lab.load(lab.host, "127.0.0.1", 7, connections=5, options=["--clients", "2"])
    assert (result["attempts"], result["ok"], result["errors"]) == (5, 0, {"ECONNREFUSED": 5})


def test_a_hundred_thousand_connections_go_through_in_one_go(lab: Lab) -> None:
    lab.serve(lab.host, "127.0.0.1", 7000, workers=2)
    options = ["--clients", "32", "--sources", "16"]
    result = lab.load(lab.host, "127.0.0.1", 7000, connections=100_000, options=options)
    assert (result["ok"], result["errors"]) == (100_000, {})


def test_a_copied_program_runs_under_its_own_name_for_any_user(lab: Lab) -> None:
    billing = lab.executable("opt/billing/worker")
    server = lab.serve(lab.host, "127.0.0.1", 7000, program=billing, uid=1234)
    assert os.readlink(f"/proc/{server.pid}/exe") == str(billing)


def test_a_server_that_cannot_start_says_why(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match="Cannot assign requested address"):
        lab.serve(lab.host, "192.0.2.1", 7000)


def test_the_lab_talks_http_to_a_server_inside_without_leaving_its_own_namespace(lab: Lab) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    (lab.directory / "hello").write_text("licet")
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", lab.directory, "8000"]
    server = lab.run(lab.host, argv)
    wait_until_listening(server, 8000)
    assert lab.http_get(lab.host, "127.0.0.1", 8000, "/hello") == (200, "licet")
    assert os.readlink("/proc/thread-self/ns/net") == before


@pytest.mark.root
def test_nothing_is_left_after_a_failure_inside_the_lab() -> None:
    lab = Lab()
    started = []

    def fail_inside() -> None:
        with lab:
            lab.serve(lab.host, "127.0.0.1", 7000, workers=2, cgroup="a.slice/b.service")
            started.extend(cgroups.members(lab.scope))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert len(started) == 3
    assert not any(is_running(pid) for pid in started)
    assert not cgroups.directory(lab.scope).exists()
    assert not lab.host.path.exists()
    assert not lab.directory.exists()


CRASH = """
import os, signal
from tests.fixtures.lab import Lab
lab = Lab().__enter__()
server = lab.serve(lab.host, "127.0.0.1", 7000, workers=1)
print(lab.scope.lstrip("/"), server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.root
def test_what_a_killed_run_left_is_removed_and_a_living_one_is_not_touched(lab: Lab) -> None:
    crashed = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False)
    name, pid = crashed.stdout.split()
    assert names.is_leftover(name)
    assert is_running(int(pid))
    removed = leftovers.remove_leftovers()
    assert len([path for path in removed if name in path]) == 6  # 3 namespaces, 2 cgroups, 1 directory
    assert not is_running(int(pid))
    assert lab.host.path.exists()
    assert cgroups.directory(lab.scope).exists()


def test_a_scrape_is_read_as_values() -> None:
    samples = parse_metrics(
        "# TYPE licet_violations_total counter\n"
        'licet_violations_total{service="db",reason="expired"} 2\n'
        'licet_violations_total{service="db",reason="excluded"} 3\n'
    )
    key = ("licet_violations_total", frozenset({("service", "db"), ("reason", "expired")}))
    assert samples[key] == 2
    assert total(samples, "licet_violations_total", service="db") == 5
    assert total(samples, "licet_violations_total", service="web") == 0
