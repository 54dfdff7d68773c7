"""`licet doctor` says of a kernel what loading finds; one without BTF is refused in a sentence."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.enforcement.packet_gate import PROGRAM as PACKET
from agent.kernel.attach.gates import LOOKUP, REWRITTEN
from agent.kernel.features import probe
from agent.kernel.loading import supervisor
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET
from tests.kernel.loading import Loading, call_hiding, loading_in


@pytest.fixture
def loading(lab: Lab) -> Iterator[Loading]:
    with loading_in(lab) as one:
        yield one


def licet_without_btf(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return call_hiding("mount -t tmpfs none /sys/kernel/btf", LICET, *arguments)


@pytest.mark.parametrize("command", ["load", "run"])
def test_a_kernel_without_btf_is_refused_in_a_sentence(loading: Loading, command: str) -> None:
    done = licet_without_btf(command, "--config", loading.config())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "licet: the kernel has no BTF (/sys/kernel/btf/vmlinux): licet needs a kernel built with "
        "CONFIG_DEBUG_INFO_BTF"
    )
    assert "Traceback" not in done.stderr
    assert loading.left() == []


def test_doctor_finds_that_there_is_no_btf() -> None:
    done = licet_without_btf("doctor", "--json")
    assert done.returncode == 1
    assert done.stderr == "licet: cannot run here; missing: BTF\n"
    missing = [one["name"] for one in json.loads(done.stdout) if one["required"] and not one["found"]]
    assert missing == ["BTF"]


def test_doctor_and_loading_find_the_same(loading: Loading) -> None:
    found = {one.name: one.found for one in probe(loading.settings.paths.pins)}
    hooks = loading.load("always").hooks
    rungs = ((found["fexit"], "fexit"), (found["kprobes"], "kretprobe"), (True, "socket-io"))
    assert hooks["accept"] == next(rung for there, rung in rungs if there)
    refused = supervisor.load_gates(loading.settings)
    assert (REWRITTEN not in refused) is found["current task in sockops"]
    assert (LOOKUP not in refused) is found["sk_lookup"]
    assert (PACKET not in refused) is found["tc filter"]
