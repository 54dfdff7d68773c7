"""The command `licet sysdump`."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import platform
import subprocess
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

import agent
from agent.cli.running import Config, settings_of
from agent.cli.secrets import without_secrets
from agent.config import DEFAULT_PATH, Settings
from agent.daemon.licensing.folder import Folder
from agent.errors import LicetError
from agent.export.client import ControlClient
from agent.export.sanitize import printable, to_json
from agent.license.values import MOST_DOCUMENT_BYTES, MOST_DOCUMENTS
from agent.policy.document.load import find_policy_files
from agent.system import bpf_map, files

EVENTS = 2000
LOG_LINES = 2000
ANSWER_WITHIN_S = 10.0
ASKED = ("policy", "licenses", "mode", "listeners", "flows", "acceptors")
"""The resources fetched from the daemon, each at /v1/NAME."""
KERNEL_OPTIONS = ("BPF", "CGROUP", "KPROBE", "FUNCTION_TRACER", "DEBUG_INFO_BTF", "NET_CLS", "SCH_INGRESS")
SYSCTLS = ("kernel/unprivileged_bpf_disabled", "kernel/kptr_restrict", "net/core/bpf_jit_enable")
_FAILURES = (LicetError, OSError, ValueError, KeyError, http.client.HTTPException, subprocess.SubprocessError)


@dataclass(slots=True)
class Dump:
    """The collected files by name, and the parts that failed. A part that fails costs only itself."""

    files: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """Add what `make` returns: text as it is, any other value as JSON. Return that value; None if
        `make` fails."""
        try:
            made = make()
        except _FAILURES as error:
            self.missing.append(f"{name}: {error}")
            return None
        text = made if isinstance(made, str) else to_json(made, indent=1)
        self.files[name] = without_secrets(text).encode("utf-8", "backslashreplace")
        return made

    def write(self, path: Path, folder: str) -> None:
        """Write a .tar.gz that only its owner can read. Raises FileExistsError."""
        self.files["missing.txt"] = "".join(f"{one}\n" for one in self.missing).encode()
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb") as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for name, content in sorted(self.files.items()):
                    member = tarfile.TarInfo(f"{folder}/{name}")
                    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
                    archive.addfile(member, io.BytesIO(content))


def sysdump(
    config: Config = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The archive; default: a new file in this directory."),
    ] = None,
) -> None:
    """Collect what a bug report needs into one archive. Works without a daemon, too.

    The archive has status, doctor, policy, programs and maps, metrics, events, logs and versions.
    Arguments of processes and values that look like secrets are left out. Names of users, programs, files
    and addresses stay in. Review the archive before you send it."""
    name = f"licet-sysdump-{platform.node()}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    path = output or Path(f"{name}.tar.gz")
    dump = collect(config)
    try:
        dump.write(path, name)
    except OSError as error:
        raise LicetError(f"{path}: cannot be written: {error.strerror}") from error
    print(path)
    for one in dump.missing:
        typer.echo(f"licet: missing from the archive: {one.splitlines()[0]}", err=True)


def collect(config: Path | None) -> Dump:
    """Collect every part. A part that cannot be read is left out and listed in `missing`."""
    dump = Dump()
    dump.part("config.yaml", partial(files.read_text, config or DEFAULT_PATH))
    try:
        settings = settings_of(config)
    except LicetError as error:
        dump.missing.append(f"settings, defaults are used instead: {error}")
        settings = Settings()
    dump.part("versions.json", _versions)
    dump.part("doctor.json", lambda: _doctor(settings.paths.pins))
    _policy_files(dump, settings)
    _license_files(dump, settings)
    _daemon(dump, settings)
    _kernel(dump, settings)
    dump.part("logs/journal.txt", _journal)
    if settings.events.sink.startswith("/"):
        dump.part("logs/events.jsonl", lambda: _tail(Path(settings.events.sink)))
    state = settings.paths.state
    for file in (*sorted(state.glob("*.json")), *sorted(state.glob("licenses/*.json"))):
        dump.part(f"state/{file.relative_to(state)}", partial(files.read_text, file))
    return dump


def _versions() -> dict[str, Any]:
    from agent.system import libbpf

    libraries = {one.name: one.version for one in metadata.distributions()}
    return {
        "licet": agent.__version__,
        "python": platform.python_version(),
        "kernel": " ".join((platform.release(), platform.version(), platform.machine())),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME"),
        "libbpf": libbpf.version(),
        "libraries": dict(sorted(libraries.items())),
    }


def _doctor(pins: Path) -> list[dict[str, Any]]:
    from agent.kernel.features import probe

    return [asdict(feature) for feature in probe(pins)]


def _policy_files(dump: Dump, settings: Settings) -> None:
    try:
        found = find_policy_files(settings.paths.policy, settings.paths.policy_dir)
    except LicetError as error:
        dump.missing.append(f"policy: {error}")
        return
    for file in found:
        folder = "policy.d/" if file.parent == settings.paths.policy_dir else ""
        dump.part(f"policy/{folder}{file.name}", partial(files.read_text, file))


def _license_files(dump: Dump, settings: Settings) -> None:
    """License documents as they are: they are no secret, and a byte left out would break a signature. And the
    public keys that may sign them."""
    paths = settings.paths
    documents = Folder(paths.licenses, (".json",), MOST_DOCUMENTS, MOST_DOCUMENT_BYTES).read()
    dump.missing.extend([f"licenses: {documents.problem}"] if documents.problem else [])
    for name, read in documents.files.items():
        if read.problem:
            dump.missing.append(f"licenses/{printable(name)}: {read.problem}")
        else:
            dump.files[f"licenses/{name}"] = read.content
    for suffix in ("*.yaml", "*.yml"):
        for file in sorted(paths.keys.glob(suffix)):
            dump.part(f"keys/{printable(file.name)}", partial(files.read_text, file))


def _daemon(dump: Dump, settings: Settings) -> None:
    client = ControlClient(settings.control_socket, timeout_s=ANSWER_WITHIN_S)
    status = dump.part("daemon/status.json", lambda: client.get("/v1/status"))
    if status is None:
        return
    for name in ASKED:
        dump.part(f"daemon/{name}.json", partial(client.get, f"/v1/{name}"))
    dump.part("daemon/events.json", lambda: client.get(f"/v1/events?limit={EVENTS}"))
    dump.part("daemon/metrics.txt", lambda: _metrics(status["listen"]))


def _metrics(listen: str) -> str:
    with closing(http.client.HTTPConnection(listen, timeout=ANSWER_WITHIN_S)) as connection:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def _kernel(dump: Dump, settings: Settings) -> None:
    for name in ("manifest.json", "gates.json", "next.json"):
        file = settings.paths.run / name
        if file.exists():
            dump.part(f"kernel/{name}", partial(files.read_text, file))
    dump.part("kernel/pins.json", lambda: list(_pinned(settings.paths.pins)))
    dump.part("kernel/config.txt", _kernel_options)
    dump.part("kernel/sysctl.json", lambda: {name: _sysctl(name) for name in SYSCTLS})
    dump.part("kernel/mounts.txt", lambda: "".join(_mounts()))


def _pinned(root: Path) -> Iterator[dict[str, Any]]:
    from agent.system import libbpf

    for path in sorted(one for one in root.rglob("*") if not one.is_dir()):
        fields: dict[str, Any] = {"path": str(path)}
        fd = libbpf.open_pin(path)
        try:
            if path.parent.name == "maps":
                of_map = bpf_map.map_info(fd)
                sizes = ("id", "type", "key_size", "value_size", "max_entries")
                fields |= {name: getattr(of_map, name) for name in sizes}
            elif path.parent.name == "programs":
                program = libbpf.program_info(fd)
                fields |= {
                    name: getattr(program, name) for name in ("id", "type", "xlated_prog_len", "run_cnt")
                }
        finally:
            os.close(fd)
        yield fields


def _kernel_options() -> str:
    """Lines of the kernel's build configuration. Raises FileNotFoundError if the kernel does not expose
    it."""
    places = (Path(f"/boot/config-{platform.release()}"), Path("/proc/config.gz"))
    for place in places:
        if place.exists():
            raw = place.read_bytes()
            text = (gzip.decompress(raw) if place.suffix == ".gz" else raw).decode()
            return "".join(
                f"{one}\n" for one in text.splitlines() if any(key in one for key in KERNEL_OPTIONS)
            )
    raise FileNotFoundError(f"neither {places[0]} nor {places[1]}")


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None  # this kernel lacks it, or we have no permission


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines(keepends=True):
        if line.partition(" - ")[2].startswith(("cgroup", "bpf ")):
            yield line


def _tail(file: Path) -> str:
    if not file.is_file():  # reading a FIFO would take lines from its reader
        raise files.no_file(file.stat().st_mode, file)
    with file.open(encoding="utf-8", errors="replace") as lines:
        return "".join(deque(lines, LOG_LINES))


def _journal() -> str:
    command = ["journalctl", "--unit=licet", f"--lines={LOG_LINES}", "--no-pager", "--output=short-iso"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    if done.returncode != 0:
        raise OSError(done.stderr.strip())
    return done.stdout
