"""bpf/abi.h and agent/kernel/abi.py say the same: the header is compiled, sizes and offsets compared."""

from __future__ import annotations

import ctypes as ct
import subprocess
from pathlib import Path

import pytest

from agent.kernel import abi
from agent.model import Decision, Origin, Reason
from agent.policy import tables

ROOT = Path(__file__).resolve().parents[2]
PACKED = {
    "target_key": abi.TARGET_KEY.size,
    "source_key": abi.SOURCE_KEY.size,
    "member_key": abi.MEMBER_KEY.size,
    "tuple": abi.TUPLE.size,
    "told": abi.TOLD.size,
    "flow_count": abi.FLOW_COUNT.size,
    "set": tables.SET_BITS // 8,
}
NUMBERS = {
    "SET_WORDS": abi.SET_WORDS,
    "SET_BLOCKS": abi.SET_WORDS // abi.WORDS_IN_BLOCK,
    "CANDIDATES": tables.CANDIDATES,
    "PATH_COMPONENTS": tables.MAX_PATH_COMPONENTS,
    "LOSSES": len(abi.LOSSES),
    "DIRECTIONS": len(abi.DIRECTIONS),
    "EXE_UNTRUSTED": abi.EXE_UNTRUSTED,
    "SPARE_FLOW": abi.SPARE_FLOW,
    **{f"EVENT_{kind.name}": int(kind) for kind in abi.EventType},
    **{f"FLOW_{state.name}": int(state) for state in abi.FlowState},
    **{decision.name: int(decision) for decision in Decision},
    **{origin.name: int(origin) for origin in Origin},
    **{dimension.name: int(dimension) for dimension in tables.Dimension},
    **{
        name: int(Reason[name])
        for name in (
            "LICENSED",
            "EXCLUDED",
            "NO_LICENSE",
            "UNLICENSED_PRINCIPAL",
            "UNRESOLVED",
            "NOT_YET_VALID",
            "EXPIRED",
            "CLOCK_UNSYNCED",
        )
    },
    "SET_MISS": tables.SetId.MISS,
    "SET_MISS_SOURCE": tables.SetId.MISS_SOURCE,
    "SET_ALL": tables.SetId.ALL,
    "SET_CERTAIN": tables.SetId.CERTAIN,
    "UNCERTAIN_EXE": tables.Uncertain.EXE,
    "UNCERTAIN_GID": tables.Uncertain.GID,
    "UNCERTAIN_CGROUP": tables.Uncertain.CGROUP,
    "UNCERTAIN_NETNS": tables.Uncertain.NETNS,
    "UNCERTAIN_CONTAINER": tables.Uncertain.CONTAINER,
    "MEMBER_UNSURE": tables.MEMBER_UNSURE,
}


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What a C compiler says of abi.h: "name" → value or size, "struct.field" → offset."""
    lines = []
    for name, kind in abi.STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        lines += [
            f'printf("{name}.{field[0]} %zu\\n", __builtin_offsetof(struct {name}, {field[0]}));'
            for field in kind._fields_
        ]
    lines += [f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in PACKED]
    lines += [f'printf("{name} %lu\\n", (unsigned long)({name}));' for name in NUMBERS]
    folder = tmp_path_factory.mktemp("abi")
    program = folder / "abi.c"
    program.write_text(
        '#include "abi.h"\nint printf(const char *, ...);\nint main(void) {\n' + "\n".join(lines) + "\n}\n"
    )
    include = [f"-I{ROOT}/bpf/include", f"-I{ROOT}/bpf", "-D__always_inline=inline"]
    subprocess.run(["gcc", *include, "-o", folder / "abi", program], check=True)
    output = subprocess.run([folder / "abi"], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


@pytest.mark.parametrize("name", sorted(abi.STRUCTS))
def test_a_struct_has_the_size_and_offsets_of_the_header(header: dict[str, int], name: str) -> None:
    kind = abi.STRUCTS[name]
    assert ct.sizeof(kind) == header[name]
    for field in kind._fields_:
        assert getattr(kind, field[0]).offset == header[f"{name}.{field[0]}"], field[0]


@pytest.mark.parametrize("name", sorted(PACKED))
def test_a_packed_key_has_the_size_of_the_header(header: dict[str, int], name: str) -> None:
    assert PACKED[name] == header[name]


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_number_is_that_of_the_header(header: dict[str, int], name: str) -> None:
    assert NUMBERS[name] == header[name]


def test_every_event_has_a_struct_that_starts_with_the_header() -> None:
    assert set(abi.EVENT_STRUCTS) == set(abi.EventType)
    assert all(kind._fields_[0] == ("header", abi.EventHeader) for kind in abi.EVENT_STRUCTS.values())
