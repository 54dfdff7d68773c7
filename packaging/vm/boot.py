"""Boots the guest, under software emulation (which works wherever qemu does), with a job.

Three disks: the root file system (never written), the job (a tar archive of the checkout), the result (a tar
archive of what the job left in /result). A fourth where the guest may reboot: what it wrote.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from image import ROOT, Image

TIMED_OUT, NEVER_REPORTED = 124, 125
RESULT_BYTES = 64 << 20
LAYER_BYTES = 4 << 30
LEFT_BEHIND = frozenset({".git", ".venv", "build", "__pycache__", ".hypothesis"})
# /dev/urandom is waited for at boot where there is no source of entropy
HARDWARE = (
    *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G", "-nodefaults", "-no-user-config"),
    *("-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"),
)
COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off"
SYSTEMD = "licet.init=systemd systemd.firstboot=no systemd.getty_auto=no systemd.show_status=no"


@dataclass(frozen=True, slots=True)
class Job:
    script: str
    """For sh, in the copy of the checkout, as root."""
    results: Path
    """The folder that gets what the job left in /result; emptied first."""
    systemd: bool = False
    """It is the first process, and the guest may reboot: the job then runs again, with what it wrote."""
    files: tuple[Path, ...] = ()
    """Are found in .vm-files in the copy of the checkout."""
    kernel_arguments: str = ""
    timeout_s: float = 2400.0


def boot(image: Image, job: Job) -> int:
    """The script's exit status; TIMED_OUT, or NEVER_REPORTED after a panic."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _pack_job(job, work)
        with (work / "result").open("wb") as disk:
            disk.truncate(RESULT_BYTES)
        late = _run_qemu(image, job, work)
        shutil.rmtree(job.results, ignore_errors=True)
        job.results.mkdir(parents=True)
        status = _unpack_result(work / "result", job.results)
    if status is None:
        return TIMED_OUT if late else NEVER_REPORTED
    return status


def _pack_job(job: Job, work: Path) -> None:
    script = work / "script"
    script.write_text(job.script)
    with tarfile.open(work / "job", "w") as archive:
        archive.add(ROOT, ".", filter=lambda entry: None if Path(entry.name).name in LEFT_BEHIND else entry)
        archive.add(script, ".vm-job")
        for file in job.files:
            archive.add(file, f".vm-files/{file.name}")


def _run_qemu(image: Image, job: Job, work: Path) -> bool:
    """True: it ran out of time."""
    argv: list[str | Path] = ["qemu-system-x86_64", *HARDWARE]
    argv += ["-kernel", image.kernel, "-initrd", image.initrd]
    # /dev/vda, vdb, vdc and vdd of the guest
    disks = [(image.root, "on"), (work / "job", "on"), (work / "result", "off")]
    if job.systemd:
        disks.append((_layer(work / "layer"), "off"))
        argv += ["-append", f"{COMMAND_LINE} {SYSTEMD} {job.kernel_arguments}"]
    else:
        argv += ["-no-reboot", "-append", f"{COMMAND_LINE} {job.kernel_arguments}"]
    for disk, readonly in disks:
        argv += ["-drive", f"file={disk},if=virtio,format=raw,readonly={readonly},cache=unsafe"]
    started = time.monotonic()
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=job.timeout_s, check=False)
        late = False
    except subprocess.TimeoutExpired:
        late = True
    print(f"vm: the guest ran for {time.monotonic() - started:.0f} s", flush=True)
    return late


def _layer(disk: Path) -> Path:
    with disk.open("wb") as empty:
        empty.truncate(LAYER_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], stdin=subprocess.DEVNULL, check=True)
    return disk


def _unpack_result(disk: Path, folder: Path) -> int | None:
    """The job's exit status; None: the guest wrote none."""
    with disk.open("rb") as raw:
        if not any(raw.read(512)):
            return None
    try:
        subprocess.run(["tar", "-xf", disk, "-C", folder], check=True)
        return int((folder / "status").read_text())
    except (subprocess.CalledProcessError, OSError, ValueError):
        return None
