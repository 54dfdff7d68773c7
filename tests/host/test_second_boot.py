"""The same host, booted again: what was in force is in force; and then the package goes."""

from __future__ import annotations

from pathlib import Path

from tests.host import machine
from tests.installed.packages import NEXT_VERSION


def test_it_is_back_in_the_same_mode_with_the_same_policy() -> None:
    machine.run("systemctl", "is-system-running", "--wait", check=False)
    status = machine.licet("status")
    assert (status["version"], status["mode"], status["ready"]) == (NEXT_VERSION, "enforce", True)
    assert [one["scope"] for one in machine.licet("mode")["overrides"]] == [None]
    machine.serve()
    assert machine.attempt("intruder") == "EPERM"
    assert machine.attempt("billing") == "ok"
    assert machine.complaints() == []


def test_it_was_ready_before_there_was_a_network() -> None:
    ready = int(machine.unit("ActiveEnterTimestampMonotonic"))
    assert 0 < ready < int(machine.unit("ActiveEnterTimestampMonotonic", "network-pre.target"))


def test_removed_it_lets_go_and_purged_it_leaves_nothing() -> None:
    assert machine.attempt("intruder") == "EPERM"
    pins = Path("/sys/fs/bpf/licet").glob("*/programs/*")  # by version of the ABI
    ours = {id for pin in pins for id in machine.programs_in_kernel("pinned", pin)}
    assert ours
    assert ours & machine.programs_in_kernel() == ours
    machine.apt("remove", "licet")
    assert machine.attempt("intruder") == "ok"
    assert ours & machine.programs_in_kernel() == set()
    assert list(Path("/sys/fs/bpf").glob("licet*")) == []
    assert "licet" not in machine.run("tc", "filter", "show", "dev", "lo", "ingress")
    assert Path("/etc/licet/policy.yaml").exists()
    machine.apt("purge", "licet")
    folders = ("/etc", "/opt", "/run", "/usr", "/var/lib", "/var/log")
    left = machine.run("find", *folders, "-xdev", "-name", "*licet*", "-not", "-path", "*/licet-v*")
    kept_by_others = ("/var/lib/dpkg/", "/var/log/apt", "/run/systemd/")
    assert [one for one in left.splitlines() if not one.startswith(kept_by_others)] == []
    assert "licet" not in Path("/etc/group").read_text()
