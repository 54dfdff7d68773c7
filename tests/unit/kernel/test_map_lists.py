"""bpf/maps.h and the lists of maps in Python: what is pinned, and the shape of the inner maps."""

from __future__ import annotations

import ctypes as ct
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import abi
from agent.kernel.pins import PINNED_MAPS
from agent.kernel.tables import policy_maps
from agent.kernel.uapi import MapType
from agent.policy.tables.shape import MAX_PLACES, MAX_SETS, SET_BITS

BPF = Path(__file__).resolve().parents[3] / "bpf"

_NAME_AT = {
    "BPF_SK_STORAGE": 0,
    "BPF_TABLE": 3,
    "BPF_F_TABLE": 3,
    "BPF_ARRAY": 0,
    "BPF_HASH": 0,
    "BPF_PERCPU_ARRAY": 0,
    "BPF_PERCPU_HASH": 0,
    "BPF_LPM_TRIE": 0,
    "BPF_ARRAY_OF_MAPS": 0,
    "BPF_HASH_OF_MAPS": 0,
    "BPF_PROG_ARRAY": 0,
    "BPF_RINGBUF_OUTPUT": 0,
}
"""Which argument of the macro that makes a map is its name."""
_NO_MAP = {"BPF_ANNOTATE_KV_PAIR"}
_MACRO = re.compile(r"^(BPF_[A-Z_]+)\(([^;]*)\);", re.MULTILINE)
_BY_SECTION = re.compile(r'section\("maps/\w+"\)\)\)\s*struct \w+\s+(\w+)')

NOT_PINNED = {
    "targets_inner": "a shape: licet run makes such maps itself, and targets holds them",
    "port_numbers_inner": "a shape: licet run makes such maps itself, and port_numbers holds them",
    "sources_inner": "a shape: licet run makes such maps itself, and sources holds them",
    "subordinates_inner": "a shape: licet run makes such maps itself, and subordinates holds them",
    "rows_inner": "a shape: licet run makes such maps itself, and rows holds them",
    "members_inner": "a shape: licet run makes such maps itself, and members holds them",
    "sets_inner": "a shape: licet run makes such maps itself, and sets holds them",
    "last_judgeds": "kept by a socket for 100 ms, and read by programs that are loaded together",
    "last_sents": "kept by a socket for 100 ms, and read by one program",
    "early_acceptors": "a row is of use for microseconds, to programs that are loaded together",
    "blank_flow": "never written: every loading has the same",
    "blank_use": "never written: every loading has the same",
    "blank_name": "never written: every loading has the same",
    "blank_walk": "never written: every loading has the same",
    "path_walks": "a row lives as long as one run of a program",
    "packet_flow": "empty between two packets",
    "births": "empty between the making of two cgroups",
}
"""Maps that each loading makes anew, and why nothing is lost with them."""

_SIZES = {
    "u32": 4,
    "u64": 8,
    "struct target_key": abi.TARGET_KEY.size,
    "struct port_numbers": ct.sizeof(abi.PortNumbers),
    "struct source_key": abi.SOURCE_KEY.size,
    "struct subordinate_key": abi.SUBORDINATE_KEY.size,
    "struct member_key": abi.MEMBER_KEY.size,
    "struct target_row": ct.sizeof(abi.TargetRow),
    "struct set": SET_BITS // 8,
}
_KINDS = {"hash": MapType.HASH, "array": MapType.ARRAY, "lpm_trie": MapType.LPM_TRIE}


@dataclass(frozen=True, slots=True)
class Made:
    macro: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.arguments[_NAME_AT[self.macro]]


def _code(name: str) -> str:
    return re.sub(r"/\*.*?\*/", " ", (BPF / name).read_text(), flags=re.DOTALL)


def _made_in(name: str) -> dict[str, Made]:
    calls = [
        Made(m[1], tuple(part.strip() for part in m[2].split(","))) for m in _MACRO.finditer(_code(name))
    ]
    found = {made.name: made for made in calls if made.macro not in _NO_MAP}
    return found | {name: Made("", ()) for name in _BY_SECTION.findall(_code(name))}


def _number(product: str) -> int:
    limits = {"MAX_TARGETS": abi.MAX_TARGETS}
    return math.prod(limits.get(part.strip()) or int(part) for part in product.split("*"))


def test_every_map_is_pinned_or_has_a_reason_not_to_be() -> None:
    """One that is neither would be made anew, empty, by each process that loads programs."""
    made = _made_in("maps.h")
    assert len(made) > 40
    assert made.keys() == {*PINNED_MAPS, *NOT_PINNED}
    assert not set(PINNED_MAPS) & NOT_PINNED.keys()
    assert len(set(PINNED_MAPS)) == len(PINNED_MAPS)


@pytest.mark.parametrize("name", sorted(str(file.relative_to(BPF)) for file in BPF.rglob("*.[ch]")))
def test_no_map_is_made_anywhere_else(name: str) -> None:
    assert not _made_in(name) or name == "maps.h"


@pytest.mark.parametrize("name", sorted(policy_maps._INNER))
def test_an_inner_map_is_made_in_the_shape_that_the_programs_know(name: str) -> None:
    """The kernel takes an inner map only where it is of the same kind; what it does not compare, the number
    of entries of a hash, decides what fits."""
    made = _made_in("maps.h")[f"{name}_inner"]
    kind, key, leaf, _, entries, flags = made.arguments
    kind_number = _KINDS[kind.strip('"')]
    assert policy_maps._INNER[name] == (kind_number, _SIZES[key], _SIZES[leaf], _number(entries))
    assert flags == ("0" if kind_number == MapType.ARRAY else "BPF_F_NO_PREALLOC")


def test_every_table_of_a_policy_has_its_inner_shape() -> None:
    outer = {made.name: made for made in _made_in("maps.h").values() if made.macro == "BPF_ARRAY_OF_MAPS"}
    assert outer.keys() == policy_maps._INNER.keys()
    for name, made in outer.items():
        assert made.arguments[1:] == (f'"{name}_inner"', "2")


def test_as_many_sets_and_places_fit_as_a_policy_may_have() -> None:
    assert policy_maps._INNER["sets"][3] == MAX_SETS
    assert policy_maps._INNER["targets"][3] == MAX_PLACES
