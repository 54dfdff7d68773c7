"""The initial RAM disk: busybox and the modules that reach the root disk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BUSYBOX = Path("/bin/busybox")
# what a guest needs before its root is there; those that are built in are left out
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "overlay")
FOLDERS = ("bin", "proc", "sys", "dev", "modules", "disk", "layer")


def make(modules: Path, output: Path) -> None:
    """`modules` is lib/modules/VERSION, with the modules.dep that depmod made."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in FOLDERS:
            (root / folder).mkdir()
        shutil.copy(BUSYBOX, root / "bin" / "busybox")
        shutil.copy(HERE / "initrd-init", root / "init")
        (root / "init").chmod(0o755)
        for place, module in enumerate(in_order(modules)):
            shutil.copy(modules / module, root / "modules" / f"{place:02d}-{Path(module).name}")
        with output.open("wb") as packed:
            pack = "find . -print0 | cpio --null --create --format=newc --quiet | gzip -1"
            subprocess.run(["sh", "-c", pack], cwd=root, stdout=packed, check=True)


def in_order(modules: Path) -> list[str]:
    """The files of MODULES, each behind those that it depends on."""
    depends: dict[str, tuple[str, list[str]]] = {}
    for line in (modules / "modules.dep").read_text(encoding="utf-8").splitlines():
        path, _, others = line.partition(":")
        depends[_name(path)] = (path, others.split())
    order: list[str] = []

    def add(name: str) -> None:
        path, others = depends[name]
        for other in others:
            add(_name(other))
        if path not in order:
            order.append(path)

    for name in MODULES:
        if name in depends:
            add(name)
    return order


def _name(path: str) -> str:
    return Path(path).name.partition(".")[0]
