"""bpf/README.md: its table of programs and maps says what the kernel says of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from agent.kernel.compile.source import bpf_folder
from agent.kernel.loading import supervisor
from agent.system import bpf_map, libbpf
from tests.fixtures.lab import Lab
from tests.kernel.loading import Loading, loading_in

README = (bpf_folder() / "README.md").read_text()
_ACCEPT = {"fexit_accept", "kretprobe_accept", "on_send", "on_receive"}
"""Of these, one kernel loads one or two."""


@pytest.fixture
def loading(lab: Lab) -> Iterator[Loading]:
    with loading_in(lab) as one:
        yield one


def words() -> dict[str, set[str]]:
    """What stands for several maps."""
    found = re.findall(r"^- (\w+): (.*?)\.", README, re.MULTILINE)
    return {word: set(re.findall(r"`(\w+)`", maps)) for word, maps in found}


def table() -> Iterator[tuple[str, set[str], set[str], set[str]]]:
    """file, programs, maps named, maps that a word in the last column stands for"""
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 5 and cells[0].endswith(".c"):
            named, programs = set(re.findall(r"`(\w+)`", cells[4])), set(re.findall(r"`(\w+)`", cells[3]))
            grouped = {one for word, maps in words().items() if word in cells[4].split(", ") for one in maps}
            yield cells[0], programs, named, grouped


def maps_of(loading: Loading) -> dict[str, set[str]]:
    """Pinned maps, by program."""
    names = {}
    for path in loading.pins.map("flows").parent.iterdir():
        with libbpf.opened_pin(path) as fd:
            names[bpf_map.map_info(fd).id] = path.name
    found = {}
    for program in loading.pins.programs():
        fd = libbpf.open_pin(loading.pins.program(program))
        found[program] = {names[one] for one in libbpf.program_maps(fd) if one in names}
        os.close(fd)
    return found


def test_each_hook_has_a_row_and_each_row_a_hook() -> None:
    assert {file for file, *_ in table()} == {path.name for path in (bpf_folder() / "hooks").iterdir()}


def test_programs_and_maps_are_those_that_the_kernel_has(loading: Loading) -> None:
    loading.load()
    supervisor.load_gates(loading.settings)
    supervisor.load_datagrams(loading.settings)
    used = maps_of(loading)
    named = {program for _, programs, *_ in table() for program in programs}
    assert used.keys() - _ACCEPT == named - _ACCEPT
    for file, programs, maps, grouped in table():
        there = [used[program] for program in programs & used.keys()]
        for one in there:
            assert one <= maps | grouped, f"{file}: {sorted(one - maps - grouped)} are not named"
        if there and not programs & _ACCEPT:
            every = set.union(*there)
            assert maps <= every, f"{file}: {sorted(maps - every)} are not used"
