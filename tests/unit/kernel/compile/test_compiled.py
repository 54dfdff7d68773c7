"""Compiled programs as they are kept."""

import os
from pathlib import Path

import pytest

from agent.kernel.compile import cache
from agent.kernel.compile.compiled import Code, Function, MapSpec

CODE = Code(
    compiler="0.26.0",
    maps={"flows": MapSpec(1, 8, 400, 65536, 0, 7, 9)},
    functions={"track": Function(bytes(range(24)), ((4, "flows"), (20, "uses")))},
    btf=b"\x9f\xeb\x01\x00",
)


def test_it_is_the_same_when_read_again() -> None:
    assert Code.from_json(CODE.to_json()) == CODE


def test_descriptors_go_where_maps_are_named() -> None:
    code = CODE.functions["track"].naming({"flows": 0x01020304, "uses": 5}.__getitem__)
    assert code[4:8] == b"\x04\x03\x02\x01"
    assert code[20:24] == b"\x05\0\0\0"
    assert (code[:4], code[8:20]) == (bytes(range(4)), bytes(range(8, 20)))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"compiler": 1, "maps": {"a": {}}}'])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Code.from_json(text)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(cache.MOST + 3):
        path = tmp_path / f"{number:032x}"
        cache.write(path, CODE)
        os.utime(path, (number, number))
    newest = tmp_path / f"{'f' * 32}"
    cache.write(newest, CODE)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == cache.MOST
    assert (names[0], names[-1]) == (f"{4:032x}", newest.name)
    assert cache.read(newest) == CODE


def test_files_of_others_stay_in_the_folder(tmp_path: Path) -> None:
    theirs = ["notes.txt", "licet", ".new-1", f"{7:032x}", f"{8:032x}", f"{9:040x}"]
    for name in theirs:
        (tmp_path / name).write_text(f"{8:032x}  {name}\n")
        os.utime(tmp_path / name, (1, 1))
    os.mkfifo(tmp_path / f"{10:032x}")
    (tmp_path / f"{11:032x}").mkdir()
    for number in range(100, 100 + cache.MOST + 3):
        cache.write(tmp_path / f"{number:032x}", CODE)
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {*theirs, f"{10:032x}", f"{11:032x}"}
    assert len(left) == len(theirs) + 2 + cache.MOST


def test_code_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "code")
    assert cache.read(tmp_path / "code") is None


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_code_below_a_folder_that_others_can_write_to_is_not_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "programs" / f"{1:032x}"
    cache.write(path, CODE)
    path.parent.chmod(mode)
    assert cache.read(path) is None
    path.parent.chmod(0o700)
    assert cache.read(path) == CODE
    tmp_path.chmod(0o777)
    assert cache.read(path) is None


def test_what_nobody_wrote_is_nothing(tmp_path: Path) -> None:
    assert cache.read(tmp_path / "none") is None


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    (tmp_path / "bpf" / "include").mkdir(parents=True)
    (tmp_path / "bpf" / "include" / "types.h").write_text("typedef int s32;\n")
    return tmp_path / "bpf"


def test_a_name_is_of_all_that_it_depends_on(headers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(source: str = "int x;", flags: tuple[str, ...] = ("-DA=1",)) -> str:
        return cache.name_of(source, flags, headers)

    seen = [name(), name("int y;"), name(flags=("-DA=2",))]
    assert name() == seen[0]
    for what in ("machine", "release", "version"):
        with monkeypatch.context() as changed:
            changed.setattr(f"platform.{what}", lambda: "another")
            seen.append(name())
    with monkeypatch.context() as changed:
        changed.setattr(cache, "LIBRARIES", (headers,))
        (headers / "libbcc.so.0").write_bytes(b"another")
        seen.append(name())
    (headers / "include" / "types.h").write_text("typedef long s32;\n")
    seen.append(name())
    assert len(set(seen)) == len(seen)


def test_what_somebody_else_could_have_written_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    cache.write(folder / "one", CODE)
    assert cache.read(folder / "one") == CODE
    for place in (folder, folder / "one"):
        mode = place.stat().st_mode
        place.chmod(mode | 0o002)
        assert cache.read(folder / "one") is None
        place.chmod(mode)
    assert cache.read(folder / "one") == CODE


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, __: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        cache.write(tmp_path / "one", CODE)
    assert list(tmp_path.iterdir()) == []
