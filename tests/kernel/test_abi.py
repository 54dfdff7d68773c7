"""bpf/abi.h and its Python twins say the same. The header is compiled: values, sizes and offsets are the
compiler's. Whatever the header defines has a twin here or a reason to have none: a new name without either
fails."""

from __future__ import annotations

import ctypes as ct
import re
import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum

import pytest

from agent import abi
from agent.enforce import tc
from agent.kernel.compile import compiled
from agent.kernel.tables import encode
from agent.model import Decision, Origin, Reason
from agent.policy.decision import consumer_sets
from agent.policy.tables import members, shape
from agent.policy.terms import hashing
from agent.policy.values import Unresolved
from tests.kernel.c_header import BPF, ask_compiler, parse, without_comments

HEADER = parse((BPF / "abi.h").read_text())


def _of(kind: type[IntEnum], prefix: str = "") -> dict[str, int]:
    return {f"{prefix}{one.name}": int(one) for one in kind}


def _constants(kind: type, prefix: str = "") -> dict[str, int]:
    return {f"{prefix}{name}": value for name, value in vars(kind).items() if name.isupper()}


def _in_order(names: Iterable[str], prefix: str = "", end: str = "") -> dict[str, int]:
    """Of an enum whose Python twin is its names in their order; `end` counts them."""
    found = {f"{prefix}{name.upper()}": place for place, name in enumerate(names)}
    return found | ({end: len(found)} if end else {})


ENUMS: dict[str, dict[str, int]] = {
    "decision": _of(Decision),
    "reason": _of(Reason),
    "origin": _of(Origin),
    "dimension": _of(shape.Dimension),
    "set_id": _constants(shape.SetId, "SET_"),
    "uncertain": _constants(shape.Uncertain, "UNCERTAIN_"),
    "unresolved": _of(Unresolved, "UNRESOLVED_"),
    "gate": _in_order(abi.GATES, "GATE_", "GATES"),
    "arrival": _in_order(abi.ARRIVALS),
    "override": _of(abi.Override, "OVERRIDE_"),
    "use_side": _in_order(abi.USE_SIDES, "USE_", "USE_SIDES"),
    "use_of": _of(abi.UseOf, "USE_OF_"),
    "direction": _in_order(abi.DIRECTIONS, end="DIRECTIONS"),
    "loss": _in_order(abi.LOSSES, "LOSS_", "LOSSES"),
    "listener_flag": _of(abi.Listener, "LISTENER_"),
    "flow_state": _of(abi.FlowState, "FLOW_"),
    "event_type": _of(abi.EventType, "EVENT_"),
}
"""What Python calls the enumerators of each enum, with their values."""

DEFINES: dict[str, int] = {
    "SET_WORDS": abi.SET_WORDS,
    "SET_BLOCKS": abi.SET_WORDS // abi.WORDS_IN_BLOCK,
    "CANDIDATES": abi.CANDIDATES,
    "LISTED_GROUPS": shape.LISTED_GROUPS,
    "SHAPES": shape.MAX_SHAPES,
    "GIDS_IN_SET": shape.GIDS_IN_SET,
    "MAX_CGROUPS": shape.MAX_CGROUPS,
    "MAX_OWNERS": consumer_sets.MAX_OWNERS,
    "MAX_TARGETS": abi.MAX_TARGETS,
    "PORTS": abi.PORTS,
    "OWNERS_OF": abi.OWNERS_OF,
    "PATH_COMPONENTS": abi.PATH_COMPONENTS,
    "COMPONENT_BYTES": abi.COMPONENT_BYTES,
    "CHUNK_WORDS": hashing._CHUNK_BYTES // 8,
    "ARGS_BYTES": abi.ARGS_BYTES,
    "EVENT_GROUPS": abi.EVENT_GROUPS,
    "CGROUP_BYTES": abi.CGROUP_BYTES,
    "EXE_NAME_BYTES": abi.EXE_NAME_BYTES,
    "USES_OF_SIDE": abi.USES_OF_SIDE,
    "USES_OF_SHARE": abi.USES_OF_SHARE,
    "USE_SHARES": abi.USE_SHARES,
    "ATTACH_TYPE_MARK": compiled.ATTACH_TYPE_MARK,
    "MEMBER_UNSURE": shape.MEMBER_UNSURE,
    "MEMBER_CONTAINER": shape.MEMBER_CONTAINER,
    "MEMBER_UNSURE_UNIT": shape.MEMBER_UNSURE_UNIT,
    "MEMBER_FLAGS": shape.MEMBER_FLAGS,
    "ASKS_SUBORDINATE": shape.ASKS_SUBORDINATE,
    "ASKS_CONTAINER": shape.ASKS_CONTAINER,
    "ASKS_USER_NAMESPACE": shape.ASKS_USER_NAMESPACE,
    "SPARE_FLOW": abi.SPARE_FLOW,
    "EXE_NONE": members.NO_EXECUTABLE,
    "EXE_UNTRUSTED": abi.EXE_UNTRUSTED,
}

REPEATED: dict[str, int] = {
    "CANDIDATES": shape.CANDIDATES,
    "MAX_TARGETS": shape.MAX_TARGETS,
    "PATH_COMPONENTS": shape.MAX_PATH_COMPONENTS,
    "SET_WORDS": shape.SET_BITS // 64,
    "EXE_UNTRUSTED": hashing.UNTRUSTED_NAME,
    "EXE_NONE | EXE_UNTRUSTED": members.UNTRUSTED_EXECUTABLE,
    "SET_CERTAIN + DIMENSIONS_IN_DOUBT + 1": shape.SetId.FIRST_FREE,
    **{f"UNCERTAIN_{one.name}": bit for one, bit in encode._UNCERTAIN_BIT.items()},
}
"""The same numbers where Python says them a second time."""

ONLY_IN_C: dict[str, str] = {
    "DIMENSIONS_IN_DOUBT": "all bits of Uncertain: held by the place of SetId.FIRST_FREE",
    "MAYBE_EXCLUDED": "between the steps of one decide()",
    "MAYBE_GRANTED": "between the steps of one decide()",
    "USES_OF_MANY": "where rows of many end: user space removes those of consumers long before",
    "CGROUP_LEVELS": "how far the kernel looks for a path's beginning: user space is given the path",
    "EXE_UNKNOWN": "told as one without a name",
    "EXE_ELSEWHERE": "in exe_names, the programs' own cache",
    "NAME_CHUNKS": "255 bytes are the longest name there is: Python hashes whatever length it is given",
    "NAME_BYTES": "likewise",
    "MAX_GROUPS": "how groups are looked for, not which are found",
    "GROUP_STEPS": "halves what a consumer can have: tests try that many",
    "gid_list": "made as a set, by sets.py: tests/kernel/test_known_by.py",
    "path_walk": "in path_walks, the programs' own",
    "ROWLESS": "in late_tuples, which user space does not read",
    "birth": "in births, which user space does not read",
    "cgroup_name": "in births, which user space does not read",
    "CLOSED": "in late_tuples, which user space does not read",
    "FOREIGN": "in late_tuples, which user space does not read",
    "exe_key": "key of exe_names, the programs' own cache",
    "exe_name": "part of what is in exe_names, the programs' own cache",
    "exe_row": "value of exe_names, the programs' own cache",
    "glob_key": "key of exe_globs, the programs' own cache",
    "glob_sets": "value of exe_globs, the programs' own cache",
    "served": "in unserved, which user space does not read",
    "early_acceptor": "in early_acceptors, which user space does not read",
    "refusal": "in refusals, which user space does not read",
    "judged_syn": "in judged_syns, which user space does not read",
    "connected": "in connected, which user space does not read",
    "last_sent": "in last_sents, which user space does not read",
    "last_judged": "in last_judgeds, which user space does not read",
    "sender_key": "key of senders: user space takes rows away by their age",
    "peer_key": "key of peers: user space takes rows away by their age",
}
"""Names that have no twin, and why."""

ONLY_IN_PYTHON: dict[str, str] = {
    "SET_FIRST_FREE": "where the compiler of policies goes on",
    **dict.fromkeys(
        (
            "CHECKOUT_REQUIRED",
            "MALFORMED",
            "UNKNOWN_KEY",
            "BAD_SIGNATURE",
            "REVOKED",
            "SUPERSEDED",
            "NODE_MISMATCH",
            "CLOCK_ROLLBACK",
            "MAX_EXCEEDED",
            "SEATS_EXCEEDED",
            "POOL_UNREACHABLE",
        ),
        "the kernel passes it on from candidate.state, and compares nothing with it",
    ),
}

PACKED: dict[str, tuple[struct.Struct, ...]] = {
    "target_key": (abi.TARGET_KEY,),
    "source_key": (abi.SOURCE_KEY,),
    "member_key": (abi.MEMBER_KEY,),
    "subordinate_key": (abi.SUBORDINATE_KEY,),
    "tuple": (abi.TUPLE,),
    "told": (abi.TOLD,),
    "flow_count": (abi.FLOW_COUNT,),
    "set": (struct.Struct(f"={shape.SET_BITS // 8}s"),),
}
"""Structs that Python packs by a format."""


def _field(name: str, field: str) -> tuple[str, str]:
    """Two expressions: its offset and its size."""
    return f"__builtin_offsetof(struct {name}, {field})", f"sizeof(((struct {name} *)0)->{field})"


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, int]:
    """What a C compiler says of each name, size and offset of abi.h."""
    asked = [*HEADER.defines, *REPEATED, *(name for names in HEADER.enums.values() for name in names)]
    for name, fields in HEADER.structs.items():
        asked.append(f"sizeof(struct {name})")
        asked += [expression for field in fields for expression in _field(name, field)]
    return ask_compiler(asked, tmp_path_factory.mktemp("abi"))


@pytest.mark.parametrize("name", sorted(HEADER.enums))
def test_an_enum_has_the_names_and_values_of_its_twin(compiler: Mapping[str, int], name: str) -> None:
    in_c = {one: compiler[one] for one in HEADER.enums[name] if one not in ONLY_IN_C}
    assert name in ENUMS, f"enum {name} of abi.h has no Python twin"
    assert in_c == {one: value for one, value in ENUMS[name].items() if one not in ONLY_IN_PYTHON}


@pytest.mark.parametrize("name", sorted(HEADER.defines))
def test_a_constant_has_the_value_of_its_twin(compiler: Mapping[str, int], name: str) -> None:
    if name in ONLY_IN_C:
        return
    assert name in DEFINES, f"#define {name} of abi.h has neither a Python twin nor a reason to have none"
    assert DEFINES[name] == compiler[name]


@pytest.mark.parametrize("name", sorted(REPEATED))
def test_a_number_that_python_says_twice_is_the_same_twice(compiler: Mapping[str, int], name: str) -> None:
    assert REPEATED[name] == compiler[name]


@pytest.mark.parametrize("name", sorted(HEADER.structs))
def test_a_struct_has_a_twin_or_a_reason_to_have_none(name: str) -> None:
    assert name in abi.STRUCTS.keys() | PACKED.keys() | ONLY_IN_C.keys()


@pytest.mark.parametrize("name", sorted(abi.STRUCTS))
def test_a_struct_has_the_fields_sizes_and_offsets_of_the_header(
    compiler: Mapping[str, int], name: str
) -> None:
    kind = abi.STRUCTS[name]
    assert tuple(field[0] for field in kind._fields_) == HEADER.structs[name]
    for field in HEADER.structs[name]:
        offset, size = (compiler[expression] for expression in _field(name, field))
        assert (getattr(kind, field).offset, getattr(kind, field).size) == (offset, size), field
    assert ct.sizeof(kind) == compiler[f"sizeof(struct {name})"]


@pytest.mark.parametrize("name", sorted(PACKED))
def test_a_packed_struct_has_the_fields_of_the_header(compiler: Mapping[str, int], name: str) -> None:
    for packed in PACKED[name]:
        parts = re.findall(r"\d*[a-zA-Z]", packed.format)
        places = [
            (struct.calcsize("=" + "".join(parts[:place])), struct.calcsize("=" + part))
            for place, part in enumerate(parts)
        ]
        expected = [
            tuple(compiler[expression] for expression in _field(name, field))
            for field in HEADER.structs[name]
        ]
        assert places == expected
        assert packed.size == compiler[f"sizeof(struct {name})"]


def test_no_bytes_between_fields_are_left_to_the_compiler(compiler: Mapping[str, int]) -> None:
    """Such bytes are not zeroed by an initializer, and as part of a key make two of one."""
    for name, fields in HEADER.structs.items():
        sizes = sum(compiler[_field(name, field)[1]] for field in fields)
        assert sizes == compiler[f"sizeof(struct {name})"], name


def test_nothing_that_the_header_defines_is_overlooked() -> None:
    """Each brace opens an enum or a struct that was read; a union or a nested struct would be one more."""
    code = without_comments((BPF / "abi.h").read_text())
    assert code.count("{") == len(HEADER.structs) + len(re.findall(r"\benum\b[^;{]*\{", code))
    assert not re.search(r"\b(typedef|union)\b", code)
    assert len(HEADER.defines) == len(re.findall(r"#\s*define\b", code))


def test_a_header_is_read_as_it_is_written() -> None:
    found = parse(
        """
        enum loss { LOSS_A, /* enum no { NOT } */ LOSS_B = 1 << 3, LOSSES, };
        enum { ALONE };
        #define SIZE\t16 /* of it */
        #define CALL(x) ((x) + 1)
        // #define GONE 1
struct row {
	u64 w[4]; /* u8 none; */
	struct address from, to;
	unsigned int one,
		two[2];
};
"""
    )
    assert found.enums == {"loss": ("LOSS_A", "LOSS_B", "LOSSES"), "": ("ALONE",)}
    assert found.defines == ("SIZE",)
    assert found.structs == {"row": ("w", "from", "to", "one", "two")}


def test_every_reason_to_have_no_twin_is_still_needed() -> None:
    in_c = {*HEADER.structs, *HEADER.defines, *(one for names in HEADER.enums.values() for one in names)}
    in_python = {name for twin in ENUMS.values() for name in twin}
    assert ONLY_IN_C.keys() <= in_c - in_python - DEFINES.keys() - abi.STRUCTS.keys() - PACKED.keys()
    assert ONLY_IN_PYTHON.keys() <= in_python - in_c
    assert DEFINES.keys() | ENUMS.keys() | PACKED.keys() <= in_c | HEADER.enums.keys()


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("lib/packet.h", "NO_LINK_HEADER", tc._NO_LINK_HEADER),
    ],
)
def test_a_constant_outside_the_header_has_the_value_of_its_twin(file: str, name: str, value: int) -> None:
    found = re.search(rf"^#define {name}\s+(0x[0-9A-Fa-f]+|\d+)", (BPF / file).read_text(), re.MULTILINE)
    assert found is not None
    assert int(found[1], 0) == value


def test_every_event_has_a_struct_that_starts_with_the_header() -> None:
    assert set(abi.EVENT_STRUCTS) == set(abi.EventType)
    assert all(kind._fields_[0] == ("header", abi.EventHeader) for kind in abi.EVENT_STRUCTS.values())
