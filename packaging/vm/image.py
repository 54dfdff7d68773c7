"""The guest's kernel and root file system, made once and kept below build/vm/ by what they are made of.

The kernel is the distribution's stock one, taken out of its package and never installed here. The root
file system is of the same release as this machine: its packages come from the apt configuration of this
machine, and its Python wheels, built by this machine's Python, fit.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import initrd

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNEL_PACKAGE = "linux-image-cloud-amd64"
# beside packaging/apt.txt: what the guest's own start and the tests' Makefile call need
GUEST_PACKAGES = ("kmod", "procps", "make", "bpftool", "systemd-sysv", "dbus")
_BUILT_WITH = ("setuptools>=68", "wheel")
NOT_NEEDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
MADE_OF = (
    "packaging/vm/image.py",
    "packaging/vm/initrd.py",
    "packaging/vm/initrd-init",
    "packaging/vm/guest-init",
    "packaging/vm/guest-job",
    "packaging/vm/guest-job.service",
    "packaging/setup.sh",
    "vagrant/provision.sh",
)


@dataclass(frozen=True, slots=True)
class Image:
    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.gz"

    @property
    def root(self) -> Path:
        return self.folder / "root.img"


def image(below: Path) -> Image:
    """The image of this checkout, built if it is not there. Others below the folder are removed."""
    if platform.machine() != "x86_64":
        raise SystemExit(f"vm: this boots an amd64 kernel; there is no recipe for {platform.machine()}")
    wanted = Image(below / _key())
    if not wanted.folder.exists():
        below.mkdir(parents=True, exist_ok=True)
        for old in below.iterdir():
            shutil.rmtree(old)
        _build(wanted)
    return wanted


def _key() -> str:
    """Of content alone, so that nothing is asked of a package mirror while the image is there."""
    made_of = [(ROOT / name).read_bytes() for name in MADE_OF]
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = about["project"]
    wheels = [about["build-system"], project["dependencies"], project["optional-dependencies"]["test"]]
    made_of.append(json.dumps([wheels, _packages()]).encode())
    made_of.append(_release().encode())
    return hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]


def _release() -> str:
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _build(image: Image) -> None:
    """In a folder of another name until it is whole: an interrupted build is not taken for an image."""
    with tempfile.TemporaryDirectory(dir=image.folder.parent, prefix="building-") as name:
        made = Image(Path(name) / "made")
        made.folder.mkdir()
        tree = Path(name) / "root"
        print(f"vm: building {image.folder}", flush=True)
        _make_root(tree, Path(name))
        modules = _add_kernel(tree, made, Path(name))
        initrd.make(modules, made.initrd)
        _pack(tree, made.root)
        made.folder.rename(image.folder)


def _make_root(tree: Path, work: Path) -> None:
    wheels, checkout = work / "wheels", work / "checkout"
    _run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", wheels, *_BUILT_WITH, f"{ROOT}[test]"
    )
    for part in ("agent", "packaging", "vagrant"):  # as much of it as provisioning needs
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    offline = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/tmp/wheels PIP_NO_CACHE_DIR=1"
    hooks = (
        f'cp -r {checkout} "$1/licet" && cp -r {wheels} "$1/tmp/wheels"',
        f'chroot "$1" env {offline} sh /licet/vagrant/provision.sh',
        'rm -r "$1/licet" "$1/tmp/wheels"',
        f'install -D -t "$1/usr/lib/licet-vm" {HERE}/guest-init {HERE}/guest-job',
        f'install -D -m 644 -t "$1/etc/systemd/system" {HERE}/guest-job.service',
        'chroot "$1" systemctl enable guest-job.service',
    )
    _run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_packages())}"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_NEEDED),
        *(f"--customize-hook={hook}" for hook in hooks),
        _release(),
        tree,
        *_apt_sources(),
    )


def _packages() -> list[str]:
    return [*GUEST_PACKAGES, *_output(ROOT / "packaging/setup.sh", "--list", "test").split()]


def _apt_sources() -> list[str]:
    """The distribution's own among those that this machine's apt uses, as lines of sources.list."""
    line = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    listing = ("apt-get", "indextargets", "--format", line, "Created-By: Packages", "Origin: Debian")
    lines = _output(*listing).splitlines()
    if not lines:
        _run("apt-get", "update", "-q")
        lines = _output(*listing).splitlines()
    if not lines:
        raise SystemExit("vm: apt knows no Debian archive here, and the guest is made from one")
    return lines


def _add_kernel(tree: Path, made: Image, work: Path) -> Path:
    """Puts the kernel aside and its modules into the tree; where they are."""
    depends = _output("apt-cache", "depends", KERNEL_PACKAGE)
    package = re.search(r"Depends: (linux-image-\d\S+)", depends)
    if not package:
        raise SystemExit(f"vm: apt knows no {KERNEL_PACKAGE}")
    unpacked = work / "kernel"
    download = work / "download"
    download.mkdir()
    _run("apt-get", "download", "-q", package[1], cwd=download)
    _run("dpkg", "-x", next(download.glob("*.deb")), unpacked)
    shutil.copy(next((unpacked / "boot").glob("vmlinuz-*")), made.kernel)
    version = next((unpacked / "lib/modules").iterdir()).name
    modules = tree / "usr/lib/modules" / version
    shutil.copytree(unpacked / "lib/modules" / version, modules)
    _run("depmod", "-b", tree / "usr", version)
    return modules


def _pack(tree: Path, output: Path) -> None:
    used_kib = int(_output("du", "-sk", tree).split()[0])
    with output.open("wb") as disk:
        disk.truncate((used_kib * 5 // 4 + 64 * 1024) * 1024)  # inodes and tables take room, too
    _run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, output)


def _run(*argv: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, check=True)


def _output(*argv: str | Path) -> str:
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True
    ).stdout
