"""Rows and counts from a map to the one that takes its place, on the kernel's own maps."""

from __future__ import annotations

import ctypes as ct
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent import abi
from agent.errors import KernelError
from agent.kernel.compile import compiler, source
from agent.kernel.compile.compiled import Code
from agent.kernel.loading.gates import CALLED_BY
from agent.kernel.pins import PINNED_MAPS
from agent.kernel.tables import layouts
from agent.kernel.tables.hash_of_abi_1 import hashes_of, path_hash_of_abi_1
from agent.kernel.tables.layouts import Conversion, Layout
from agent.kernel.uapi import NO_PREALLOC, MapType
from agent.kernel.upgrade import plan
from agent.kernel.upgrade.migration import Move
from agent.policy.terms.hashing import path_hash
from agent.system import bpf_map
from agent.system.bpf_map import Map

SEED, KEY = 0x1234, ct.sizeof(abi.UseKey)
U64 = Conversion(8, ((0, 0, 8),))
SHIFTED = Conversion(16, ((0, 8, 8),))
"""A number behind a new field."""


@pytest.fixture
def made() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def new_map(made: ExitStack, kind: int, key: int, value: int, entries: int) -> Map:
    flags = NO_PREALLOC if kind in (MapType.HASH, MapType.PERCPU_HASH) else 0
    table = Map.from_fd(bpf_map.map_create(kind, "licet_test", key, value, entries, flags), "test")
    made.callback(table.close)
    return table


def move(before: Map, after: Map, name: str = "counts", *, counts: bool = True, array: bool = False) -> Move:
    places = ((0, after.value_size - 8),) if counts else ()
    convert = U64 if after.value_size == 8 else SHIFTED
    key = Conversion(after.key_size, ((0, 0, before.key_size),))
    return Move(name, before, after, key, convert, places, None, is_array=array)


def number(value: bytes | None, at: int = 0) -> int:
    assert value is not None
    return int.from_bytes(value[at : at + 8], "little")


def total(table: Map, key: bytes, at: int = 0) -> int:
    value = table.get(key) or bytes(table.value_size * table.cpus)
    return sum(number(value, cpu * table.value_size + at) for cpu in range(table.cpus))


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH])
def test_counts_are_added_to_what_the_new_row_has_counted(made: ExitStack, kind: int) -> None:
    before, after = new_map(made, kind, 8, 8, 16), new_map(made, kind, 8, 16, 16)
    there, absent = bytes([1]) * 8, bytes([2]) * 8
    for key in (there, absent):
        before.put(key, b"".join(abi.U64.pack(10 + cpu) for cpu in range(before.cpus)))
    after.put(there, b"".join(abi.U64.pack(0) + abi.U64.pack(5) for _ in range(after.cpus)))
    expected = {key: total(before, key) for key in (there, absent)}
    for _ in range(2):  # what was taken once is not taken again
        move(before, after).drain()
        assert total(after, there, 8) == expected[there] + 5 * after.cpus
        assert total(after, absent, 8) == expected[absent]
        assert total(before, there) == total(before, absent) == 0


def test_an_array_of_counts_keeps_its_indices_and_one_spread_over_gates_gets_new_ones(
    made: ExitStack,
) -> None:
    before, after = (
        new_map(made, MapType.PERCPU_ARRAY, 4, 8, 12),
        new_map(made, MapType.PERCPU_ARRAY, 4, 8, 15),
    )
    for index in range(12):
        before.put(abi.U32.pack(index), abi.U64.pack(index) * before.cpus)
    wider = Move("refused", before, after, U64, U64, ((0, 0),), None, spread=(4, 5), is_array=True)
    wider.drain()
    found = [total(after, abi.U32.pack(index)) // before.cpus for index in range(15)]
    assert found == [0, 1, 2, 3, 0, 4, 5, 6, 7, 0, 8, 9, 10, 11, 0]


def test_nothing_is_lost_while_others_count_in_the_old_map(made: ExitStack) -> None:
    """Here by a drain the other way round: a count goes to and fro while two threads take it."""
    one, other = new_map(made, MapType.HASH, 8, 8, 4), new_map(made, MapType.HASH, 8, 8, 4)
    keys = [abi.U64.pack(number) for number in range(4)]
    for key in keys:
        one.put(key, abi.U64.pack(1_000_000))
        other.put(key, abi.U64.pack(0))
    to, fro = move(one, other), move(other, one)

    def repeat(each: Move) -> None:
        for _ in range(300):
            each.drain()

    threads = [threading.Thread(target=repeat, args=(each,)) for each in (to, fro, to, fro)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [total(one, key) + total(other, key) for key in keys] == [1_000_000] * 4


def test_rows_that_do_not_fit_are_an_error(made: ExitStack) -> None:
    before, after = new_map(made, MapType.HASH, 8, 8, 64), new_map(made, MapType.HASH, 8, 16, 8)
    for index in range(64):
        before.put(abi.U64.pack(index), abi.U64.pack(1))
    with pytest.raises(KernelError, match="map uses: its rows do not fit"):
        move(before, after, "uses").copy()
    with pytest.raises(KernelError, match="map counts: its rows do not fit"):
        move(before, after).drain()
    assert (
        sum(total(before, key) for key in list(before)) + sum(total(after, key, 8) for key in list(after))
        == 64
    )


def test_a_row_is_copied_without_its_count_and_does_not_replace_one_that_is_there(made: ExitStack) -> None:
    before, after = new_map(made, MapType.HASH, 8, 8, 4), new_map(made, MapType.HASH, 8, 16, 4)
    first, second = abi.U64.pack(1), abi.U64.pack(2)
    before.put(first, abi.U64.pack(7))
    before.put(second, abi.U64.pack(7))
    after.put(second, abi.U64.pack(3) * 2)
    move(before, after, "uses").copy()
    assert after.get(first) == bytes(16)
    assert after.get(second) == abi.U64.pack(3) * 2
    assert number(before.get(first)) == 7


class GoneMeanwhile(Map):
    """A socket closes just after its row was read: the bridge has deleted the row."""

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for key, value in list(super().items()):
            super().remove(key)
            yield key, value


@pytest.mark.parametrize("how", ["copy", "take"])
def test_a_flow_that_closes_while_it_is_fetched_does_not_come_back(made: ExitStack, how: str) -> None:
    before, after = new_map(made, MapType.HASH, 8, 8, 4), new_map(made, MapType.HASH, 8, 16, 4)
    before.put(abi.U64.pack(1), abi.U64.pack(9))
    taken = move(before, after, "flows", counts=False)
    closing = GoneMeanwhile(before.fd, "flows", 8, 8, 4)
    getattr(Move("flows", closing, after, U64, SHIFTED, (), None), how)()
    assert list(after) == []
    before.put(abi.U64.pack(1), abi.U64.pack(9))
    taken.take()
    assert after.get(abi.U64.pack(1)) == bytes(8) + abi.U64.pack(9)
    assert list(before) == []


def test_who_uses_what_goes_on_under_this_versions_hash(made: ExitStack) -> None:
    """0.1.0 hashed otherwise. Of an executable whose name is not known, or is cut, the hash stays."""
    paths = {path: path_hash_of_abi_1(path, SEED) for path in ("/usr/bin/psql", "/usr/bin/not-named")}
    before, after = new_map(made, MapType.HASH, KEY, 8, 16), new_map(made, MapType.HASH, KEY, 8, 16)
    for number_, exe in enumerate(paths.values(), 1):
        before.put(bytes(abi.UseKey(exe=exe, cgroup=7, uid=number_)), abi.U64.pack(number_))
    hashes = hashes_of([(abi.U64.pack(paths["/usr/bin/psql"]), b"/usr/bin/psql"), (bytes(8), b"/cut")], SEED)
    moved = Move(
        "acceptors", before, after, Conversion(KEY, ((0, 0, KEY),)), U64, ((0, 0),), None, hashes=hashes
    )
    moved.copy()
    moved.drain()
    found = {abi.UseKey.from_buffer_copy(key).exe: number(value) for key, value in after.items()}
    assert found == {path_hash("/usr/bin/psql", SEED): 1, paths["/usr/bin/not-named"]: 2}


def test_of_two_rows_for_one_socket_the_later_holds(made: ExitStack) -> None:
    before, after = new_map(made, MapType.HASH, 8, 8, 4), new_map(made, MapType.HASH, 8, 8, 4)
    later = Move("flows", before, after, U64, U64, (), (0, 0))
    for key, old, new in ((1, 10, 20), (2, 20, 10)):
        before.put(abi.U64.pack(key), abi.U64.pack(old))
        after.put(abi.U64.pack(key), abi.U64.pack(new))
    later.copy()
    assert [number(after.get(abi.U64.pack(key))) for key in (1, 2)] == [20, 20]


@pytest.fixture(scope="module")
def code() -> Code:
    folder = source.bpf_folder()
    text = source.joined(
        folder,
        (
            *source.HEADERS,
            "lib/accept.h",
            "hooks/flow_tracker.c",
            "hooks/accept_observer.c",
            "hooks/cgroup_watch.c",
        ),
    )
    btf = compiler.open_btf()
    try:
        return compiler.compile_code(text, compiler.offset_flags(text, btf), folder)
    finally:
        btf.close()


def flattened(kind: type, offset: int = 0, name: str = "") -> Iterator[tuple[str, int, int]]:
    """As layouts does it, of a struct of abi.py."""
    if issubclass(kind, ct.Structure):
        for member, of, *_ in kind._fields_:  # type: ignore[misc]
            if not member.startswith("pad"):
                inner = f"{name}.{member}" if name else member
                yield from flattened(of, offset + getattr(kind, member).offset, inner)
    elif issubclass(kind, ct.Array) and issubclass(kind._type_, (ct.Structure, ct.Array)):
        for place in range(kind._length_):
            yield from flattened(kind._type_, offset + place * ct.sizeof(kind._type_), f"{name}[{place}]")
    else:
        yield name, offset, ct.sizeof(kind)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("flows", None, abi.Flow),
        ("uses", abi.UseKey, abi.Use),
        ("counts", abi.CountKey, None),
        ("acceptors", abi.AcceptorKey, None),
        ("owners", abi.OwnerKey, abi.ListenerOwner),
        ("names", None, abi.StoredName),
        ("settings", None, abi.Settings),
        ("edges", abi.EdgeKey, None),
        ("modes", None, abi.RawMode),
    ],
)
def test_what_the_kernel_keeps_of_a_maps_types_is_what_abi_says(
    code: Code, table: str, key: type | None, value: type | None
) -> None:
    spec = code.maps[table]
    rows = layouts.rows_in(code.btf, spec.key_type, spec.value_type)
    assert rows is not None
    for layout, kind in ((rows.key, key), (rows.value, value)):
        if kind is not None:
            assert _fields(layout) == [(_alone(name), *place) for name, *place in flattened(kind)]


def _fields(layout: Layout) -> list[tuple[str, int, int]]:
    return [(_alone(field.name), field.offset, field.size) for field in layout.fields]


def _alone(name: str) -> str:
    """A set and an address are structs of one array in the header."""
    return name.removesuffix(".w")


def test_each_map_that_may_have_to_move_says_what_its_rows_are_like(code: Code) -> None:
    """One that does not could only be given up."""
    silent = plan.ALWAYS_NEW | plan.SCRATCH
    for name in set(PINNED_MAPS) - silent:
        spec = code.maps[name]
        assert layouts.rows_in(code.btf, spec.key_type, spec.value_type), name


def test_what_our_own_programs_call_is_made_anew_with_them() -> None:
    """A map that is kept would be called by programs of both versions; one that is not filled, by none."""
    assert {name for name, _ in CALLED_BY.values()} == plan.OWN_CALLS | {"lookup_calls"}


def test_what_is_counted_is_found_by_name(code: Code) -> None:
    for name, fields in plan.COUNTS.items():
        spec = code.maps[name]
        rows = layouts.rows_in(code.btf, spec.key_type, spec.value_type)
        assert rows is not None
        sizes = {field.name: field.size for field in rows.value.fields}
        assert [sizes.get(field) for field in fields] == [8] * len(fields), name
    for name, field in plan.MADE_AT.items():
        spec = code.maps[name]
        rows = layouts.rows_in(code.btf, spec.key_type, spec.value_type)
        assert rows is not None
        assert field in {one.name for one in rows.value.fields}


_ADDED = re.compile(r"__sync_fetch_and_add\((?:&(\w+)->(\w+)|(\w+)),")


@pytest.mark.parametrize(
    "file", sorted(path.name for path in source.bpf_folder().iterdir() if path.is_file())
)
def test_whatever_programs_add_to_is_named_as_a_count(file: str) -> None:
    """Else it would be copied as it was, and what is counted meanwhile lost."""
    text = (source.bpf_folder() / file).read_text()
    for added in _ADDED.finditer(text):
        variable, field = added[1] or added[3], added[2] or ""
        name = _map_of(variable, text[: added.start()])
        assert name, f"{file}: what {variable} is cannot be seen; look it up right before"
        assert name in plan.SCRATCH or field in plan.COUNTS.get(name, ()), (
            f"{file}: {name}.{field}: name it in mover.COUNTS"
        )


def _map_of(variable: str, before: str) -> str:
    """The map it was looked up in; of a parameter, the one that has such rows."""
    if looked_up := re.findall(rf"\b{variable} = (\w+)\.lookup\(", before):
        return str(looked_up[-1])
    kinds = re.findall(rf"struct (\w+) \*{variable}\b", before) or [""]
    maps = (source.bpf_folder() / "maps.h").read_text()
    found = re.search(rf"\(\"hash\", struct \w+, struct {kinds[-1]}, (\w+)", maps)
    return found[1] if found else ""
