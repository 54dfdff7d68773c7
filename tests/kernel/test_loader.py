"""`licet load` on the real kernel: what it leaves, what it takes over, and what it undoes when it fails."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import KernelError, PinError
from agent.kernel.loading import supervisor
from agent.kernel.loading.manifest import Manifest
from agent.kernel.pins import ABI_VERSION, PINNED_MAPS
from agent.kernel.uapi import MapType
from agent.system import bpf_map, libbpf
from tests.fixtures import cgroups, rungs
from tests.fixtures.lab import Lab
from tests.kernel.loading import Loading, loading_in

LINKS = {"track_flows", "observe_connect4", "observe_connect6", "cgroup_mkdir"}
BETTER_RUNGS = ["fexit", "kretprobe"]
RUNG_LINKS = {
    "fexit": {"accept"},
    "kretprobe": {"accept"},
    "socket-io": {"sock_recv_length", "sock_send_length"},
}


@pytest.fixture
def loading(lab: Lab) -> Iterator[Loading]:
    with loading_in(lab) as one:
        yield one


def pin_map_of_another_shape(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    fd = bpf_map.map_create(MapType.HASH, "other_shape", 4, 24, 16)
    try:
        libbpf.pin(fd, path)
    finally:
        os.close(fd)


def test_everything_is_pinned_and_the_manifest_says_what_was_done(loading: Loading) -> None:
    manifest = loading.load()
    assert set(loading.maps()) == set(PINNED_MAPS)
    assert set(loading.links()) == LINKS
    assert set(loading.pins.programs()) == LINKS
    assert set(manifest.new_maps) == set(PINNED_MAPS)
    assert manifest.cgroup == str(loading.cgroup)
    assert manifest.cgroup_id == loading.cgroup.stat().st_ino
    assert manifest.kernel == os.uname().release
    assert set(manifest.hooks) == {"connect", "flow", "listen", "cgroup", "accept"}
    assert loading.manifest_path.exists()
    assert supervisor.is_current(loading.settings, loading.cgroup)


def test_the_programs_run_after_the_loader_has_left(loading: Loading) -> None:
    loading.load()
    lab = loading.lab
    lab.serve(lab.host, "10.77.1.1", 7000)
    made = lab.load(lab.host, "10.77.1.1", 7000, connections=20)
    assert made["ok"] == 20
    assert loading.outbound() == 20


def test_what_is_outside_the_cgroup_is_not_seen(loading: Loading) -> None:
    loading.load()
    lab = loading.lab
    lab.serve(lab.host, "10.77.1.1", 7000, cgroup=None)
    lab.load(lab.host, "10.77.1.1", 7000, connections=5, cgroup=None)
    assert loading.outbound() == 0


def test_a_second_load_goes_on_with_maps_counts_and_cgroup_links(loading: Loading) -> None:
    loading.load()
    lab = loading.lab
    lab.serve(lab.host, "10.77.1.1", 7000)
    lab.load(lab.host, "10.77.1.1", 7000, connections=20)
    maps, links = loading.maps(), loading.links()
    again = loading.load()
    assert list(again.new_maps) == []
    assert loading.maps() == maps
    for name in LINKS - {"cgroup_mkdir"}:  # a raw tracepoint's link can't be updated
        (link_before, program_before), (link_after, program_after) = links[name], loading.links()[name]
        assert link_after == link_before, f"{name}: replaced in place"
        assert program_after != program_before, f"{name}: by the new program"
    lab.load(lab.host, "10.77.1.1", 7000, connections=10)
    assert loading.outbound() == 30


def test_no_connection_is_missed_or_counted_twice_while_programs_are_replaced(loading: Loading) -> None:
    loading.load()
    lab = loading.lab
    lab.serve(lab.host, "10.77.1.1", 7000)
    busy = lab.run(
        lab.host, [lab.executable("client"), "10.77.1.1", "7000", "--connections", "8000"], cgroup=""
    )
    loading.load()
    out, _ = busy.communicate(timeout=60)
    assert '"ok": 8000' in out or '"ok":8000' in out
    assert loading.outbound() == 8000


def test_a_map_of_another_shape_is_refused_before_anything_is_made(loading: Loading) -> None:
    in_the_way = loading.pins.map("flows")
    pin_map_of_another_shape(in_the_way)
    with pytest.raises(PinError, match=rf"{in_the_way}: pinned by another version.*licet unload"):
        loading.load()
    assert loading.left() == [in_the_way]
    assert not loading.manifest_path.exists()


def test_a_refused_upgrade_leaves_what_is_in_force(loading: Loading) -> None:
    loading.load()
    pin_map_of_another_shape(loading.pins.map("edges"))
    links, maps = loading.links(), loading.maps()
    with pytest.raises(PinError, match="edges"):
        loading.load()
    assert loading.links() == links
    assert loading.maps() == maps
    assert set(loading.pins.programs()) == LINKS


def test_programs_of_another_abi_are_not_joined(loading: Loading) -> None:
    other = loading.settings.paths.pins / str(ABI_VERSION + 1) / "maps"
    pin_map_of_another_shape(other / "flows")
    with pytest.raises(PinError, match=rf"ABI {ABI_VERSION + 1}.*licet unload --all"):
        loading.load()
    assert loading.left() == [other / "flows"]
    supervisor.unload(loading.settings, all_versions=True)
    assert not loading.settings.paths.pins.exists()


def test_a_failing_attach_is_undone(loading: Loading) -> None:
    in_the_way = loading.pins.link("observe_connect6")
    pin_map_of_another_shape(in_the_way)  # not a link: it can't be updated
    with pytest.raises(KernelError):
        loading.load()
    assert loading.left() == [in_the_way]
    lab = loading.lab
    lab.serve(lab.host, "10.77.1.1", 7000)
    assert lab.load(lab.host, "10.77.1.1", 7000, connections=3)["ok"] == 3


def test_a_failing_replacement_leaves_the_programs_that_were_in_force(loading: Loading) -> None:
    loading.load()
    before = loading.links()
    pin_map_of_another_shape(loading.pins.link("observe_connect6"))
    with pytest.raises(KernelError):
        loading.load()
    after = loading.links()
    for name in ("track_flows", "observe_connect4", "cgroup_mkdir"):
        assert after[name] == before[name], name
    assert set(loading.pins.programs()) == LINKS


def test_unload_leaves_nothing_and_can_be_repeated(loading: Loading) -> None:
    loading.load()
    loading.unload()
    assert not loading.settings.paths.pins.exists()
    assert not loading.manifest_path.exists()
    assert not supervisor.is_current(loading.settings, loading.cgroup)
    loading.unload()


def test_counters_start_anew_after_an_unload(loading: Loading) -> None:
    loading.load()
    lab = loading.lab
    lab.serve(lab.host, "10.77.1.1", 7000)
    lab.load(lab.host, "10.77.1.1", 7000, connections=2)
    loading.unload()
    loading.load()
    assert loading.outbound() == 0


def test_auto_takes_the_best_free_rung_and_says_why_not_the_others(loading: Loading) -> None:
    manifest = loading.load("auto")
    best = rungs.best_free()
    assert manifest.hooks["accept"] == best
    better = BETTER_RUNGS[: BETTER_RUNGS.index(best)] if best in BETTER_RUNGS else BETTER_RUNGS
    assert list(manifest.refused_rungs) == better
    assert all(manifest.refused_rungs.values())


def test_always_names_the_acceptor_at_a_cost_where_nothing_is_free(loading: Loading) -> None:
    manifest = loading.load("always")
    assert manifest.hooks["accept"] == rungs.offered()[0]
    assert set(loading.links()) == LINKS | RUNG_LINKS[rungs.offered()[0]]


@pytest.mark.parametrize("rung", rungs.RUNGS)
def test_a_rung_by_name_is_that_one_or_none(loading: Loading, rung: str) -> None:
    manifest = loading.load(rung)
    if rung in rungs.offered():
        assert manifest.hooks["accept"] == rung
        assert manifest.refused_rungs == {}
        assert set(loading.links()) == LINKS | RUNG_LINKS[rung]
    else:
        assert manifest.hooks["accept"] == "none"
        assert list(manifest.refused_rungs) == [rung]


def test_never_tries_no_rung(loading: Loading) -> None:
    manifest = loading.load("never")
    assert manifest.hooks["accept"] == "none"
    assert manifest.refused_rungs == {}


def test_a_rung_that_is_no_longer_wanted_is_detached(loading: Loading) -> None:
    loading.load("always")
    assert len(loading.links()) > len(LINKS)
    assert not supervisor.is_current(loading.settings, loading.cgroup), (
        "the setting is part of what was loaded"
    )
    loading.load("never")
    assert set(loading.links()) == LINKS
    assert set(loading.pins.programs()) == LINKS


def test_another_scope_gets_links_of_its_own(loading: Loading) -> None:
    loading.load()
    before = loading.links()
    elsewhere = dataclasses.replace(
        loading, cgroup=cgroups.directory(loading.lab.outside_cgroup("elsewhere"))
    )
    assert not supervisor.is_current(elsewhere.settings, elsewhere.cgroup)
    manifest = elsewhere.load()
    assert manifest.cgroup == str(elsewhere.cgroup)
    assert elsewhere.links()["track_flows"][0] != before["track_flows"][0]
    lab = loading.lab
    lab.serve(lab.host, "10.77.1.1", 7000)
    lab.load(lab.host, "10.77.1.1", 7000)
    assert loading.outbound() == 0, "what it was attached to before is let go of"


@pytest.mark.parametrize("missing", ["maps/ring", "links/track_flows"])
def test_pins_that_are_not_whole_are_not_current_and_are_mended(loading: Loading, missing: str) -> None:
    loading.load()
    (loading.pins.base / missing).unlink()
    assert not supervisor.is_current(loading.settings, loading.cgroup)
    loading.load()
    assert supervisor.is_current(loading.settings, loading.cgroup)


def test_a_cgroup_that_is_not_there_is_one_line(loading: Loading) -> None:
    gone = dataclasses.replace(loading, cgroup=loading.cgroup / "gone")
    with pytest.raises(KernelError, match=r"no such cgroup; see scope\.cgroup"):
        gone.load()


def test_pins_outside_bpffs_are_refused_with_the_command_that_mounts_one(loading: Loading) -> None:
    paths = loading.settings.paths.model_copy(update={"pins": loading.lab.directory / "pins"})
    elsewhere = dataclasses.replace(loading, settings=loading.settings.model_copy(update={"paths": paths}))
    with pytest.raises(KernelError, match="mount -t bpf"):
        elsewhere.load()
    assert not (loading.lab.directory / "pins").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"source": "x"}', '{"unknown": 1}'])
def test_a_damaged_manifest_is_no_manifest(tmp_path: Path, content: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)
    assert Manifest.read(path) is None
