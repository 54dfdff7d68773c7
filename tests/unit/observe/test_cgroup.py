from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.observe.cgroup import cgroup_id, find_mount, list_cgroups
from agent.policy.terms.cgroups import container_in, unit_of

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
POD = "pod1f9b8a7c-0000-4000-8000-000000000001"

MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
"""


def mountinfo(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO + "".join(f"{line}\n" for line in lines))
    return path


def test_the_mount_is_found_beside_version_1(tmp_path: Path) -> None:
    table = mountinfo(tmp_path, "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw")
    assert find_mount(table) == Path("/sys/fs/cgroup/unified")


def test_a_mount_of_the_whole_tree_wins_over_a_part(tmp_path: Path) -> None:
    table = mountinfo(
        tmp_path,
        "40 31 0:38 /system.slice /srv/part rw - cgroup2 cgroup2 rw",
        r"41 31 0:38 / /sys/fs/my\040cgroup rw shared:5 master:2 - cgroup2 cgroup2 rw",
    )
    assert find_mount(table) == Path("/sys/fs/my cgroup")


def test_no_mount_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="mount -t cgroup2"):
        find_mount(mountinfo(tmp_path))


def test_no_proc_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"absent.*is /proc mounted"):
        find_mount(tmp_path / "absent")


def test_all_cgroups_are_listed_with_their_ids(tmp_path: Path) -> None:
    (tmp_path / "a.slice" / "b.service").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "c")
    expected = {
        "/": tmp_path,
        "/a.slice": tmp_path / "a.slice",
        "/a.slice/b.service": tmp_path / "a.slice" / "b.service",
        "/c": tmp_path / "c",
    }
    assert list_cgroups(tmp_path) == {path: place.stat().st_ino for path, place in expected.items()}


def test_an_id_is_looked_up_by_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert cgroup_id(tmp_path, "/a") == (tmp_path / "a").stat().st_ino
    assert cgroup_id(tmp_path, "/") == tmp_path.stat().st_ino
    assert cgroup_id(tmp_path, "/absent") == 0


def test_a_path_that_climbs_does_not_leave_the_mount(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "secret").mkdir()
    assert cgroup_id(tmp_path / "mount", "/../secret") == 0


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/user.slice/user-1000.slice/session-4.scope", "session-4.scope"),
        ("/system.slice/docker.socket", "docker.socket"),
        ("/init.scope", "init.scope"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/system.slice", ""),
        ("/", ""),
        ("", ""),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope"),
    ],
)
def test_a_unit_is_named_by_its_cgroup(path: str, unit: str) -> None:
    assert unit_of(path) == unit


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/postgresql.service", "user@1000.service"),
        ("/system.slice/web.service/system.slice/postgresql.service", "web.service"),
        (f"/docker/{ID}/system.slice/postgresql.service", ""),
        (f"/kubepods/burstable/{POD}/{ID}/postgresql.service", ""),
    ],
)
def test_what_is_below_a_unit_or_a_container_forges_no_other_unit(path: str, unit: str) -> None:
    assert unit_of(path) == unit


@pytest.mark.parametrize(
    "path",
    [
        f"/system.slice/docker-{ID}.scope",
        f"/docker/{ID}",
        f"/docker/{ID}/init.scope",
        f"/ecs/0a1b2c/{ID}",
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-{ID}.scope",
        f"/kubepods/burstable/{POD}/{ID}",
        f"/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:{ID}",
        f"/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope/container",
        f"/kubepods/{POD}/crio-{ID}",
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/libpod_parent/libpod-{ID}",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
        f"/system.slice/web.service/libpod-payload-{ID}",
        f"/docker/{ID}/docker/{OTHER}",
        f"/libpod_parent/{OTHER}/libpod-{ID}",
        f"/libpod_parent/{OTHER}/libpod-{ID}/container",
    ],
)
def test_a_container_is_named_by_its_cgroup_whatever_made_it(path: str) -> None:
    found = container_in(path)
    assert found is not None
    assert found.id == ID


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/system.slice/docker.service",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods.slice/crio-conmon-{ID}.scope",
        f"/docker/{ID[:-1]}",
        f"/docker/{ID}0",
        f"/docker/{ID.upper()}",
        f"/system.slice/{ID}.service",
    ],
)
def test_what_is_no_container_has_no_container_name(path: str) -> None:
    assert container_in(path) is None


@pytest.mark.parametrize(
    ("path", "own", "name", "runtime"),
    [
        ("/lxc.payload.web/system.slice/nginx.service", "/lxc.payload.web", "web", "lxc"),
        ("/lxc/101/ns/system.slice/nginx.service", "/lxc/101", "101", "lxc"),
        ("/lxc.payload/web/init.scope", "/lxc.payload/web", "web", "lxc"),
        ("/lxc.payload.shop_web", "/lxc.payload.shop_web", "shop_web", "lxc"),
        (
            "/machine.slice/systemd-nspawn@my\\x2dweb.service/payload/system.slice/x.service",
            "/machine.slice/systemd-nspawn@my\\x2dweb.service",
            "my-web",
            "systemd-nspawn",
        ),
        (
            "/machine.slice/machine-web.scope/payload",
            "/machine.slice/machine-web.scope",
            "web",
            "systemd-nspawn",
        ),
        (
            "/machine.slice/machine-lxc\\x2d42\\x2dmy\\x2dweb.scope",
            "/machine.slice/machine-lxc\\x2d42\\x2dmy\\x2dweb.scope",
            "my-web",
            "libvirt-lxc",
        ),
        ("/garden/a1b2/init", "/garden/a1b2", "a1b2", "garden"),
        (
            "/system.slice/docker-" + ID + ".scope/lxc.payload.web",
            f"/system.slice/docker-{ID}.scope",
            "",
            "docker",
        ),
    ],
)
def test_a_container_whose_path_has_its_name(path: str, own: str, name: str, runtime: str) -> None:
    found = container_in(path)
    assert found is not None
    assert (found.path, found.name, found.runtime) == (own, name, runtime)


@pytest.mark.parametrize(
    "path",
    [
        "/lxc.monitor.web",
        "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
        "/nomad.slice/share.slice/d3b07384-d9a0-4c9b-8f6e-1f2a3b4c5d6e.web.scope",
        f"/libpod_parent/{ID}",
    ],
)
def test_a_virtual_machine_a_monitor_or_a_pod_is_no_container(path: str) -> None:
    assert container_in(path) is None


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/lxc.payload.x/system.slice/billing.service", ""),
        ("/lxc/x/system.slice/billing.service", ""),
        ("/lxc/billing.service", ""),
        ("/garden/x/billing.service", ""),
        (
            "/machine.slice/systemd-nspawn@x.service/payload/system.slice/billing.service",
            "systemd-nspawn@x.service",
        ),
        ("/machine.slice/systemd-nspawn@x.service", "systemd-nspawn@x.service"),
        ("/machine.slice/machine-x.scope/payload/billing.service", "machine-x.scope"),
    ],
)
def test_a_container_with_an_init_of_its_own_has_no_units_of_the_host(path: str, unit: str) -> None:
    assert unit_of(path) == unit
