"""A system with nothing but what the package depends on: files of its own, a bpffs of its own, no init.

The tree is made once by mmdebstrap and never written to: each test sees it below an overlay. Pins live in
a bpffs of the test's own mount namespace, so that default paths can be used and nothing outlives it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.fixtures import namespaces, processes
from tests.fixtures.lab import ROOT, Lab
from tests.fixtures.metrics_text import Samples, parse_metrics
from tests.fixtures.waiting import wait_for
from tests.installed.packages import SUITES, tested_release

INSIDE = ("python3", "python3-bpfcc", "libbpf1", "rpm")
"""What the package depends on (that it depends on no more is what installing it here shows), and a tool."""
_ENTER = """\
mount -t overlay overlay -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/work" "$1"
for folder in proc sys dev; do mount --rbind "/$folder" "$1/$folder"; done
mount -t bpf bpf "$1/sys/fs/bpf"
mkdir -p "$1/run/netns"
mount --rbind /run/netns "$1/run/netns"
cd "$1"
pivot_root . .
umount -l .
echo entered
exec sleep infinity
"""


def bare_tree() -> Path:
    """Made by mmdebstrap (some 30 s) unless it is there. Raises RuntimeError."""
    suite = SUITES[tested_release()]
    asked = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(INSIDE)}", suite]
    tree = ROOT / "build" / f"bare-{hashlib.sha256(' '.join(asked).encode()).hexdigest()[:12]}"
    if not tree.exists():
        fresh = tree.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        done = subprocess.run([*asked, fresh, *_mirror(suite)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"mmdebstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        fresh.rename(tree)
    return tree


def _mirror(suite: str) -> list[str]:
    """The one that this host's apt uses for the suite; none: mmdebstrap has a default."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = (line.split() for line in done.stdout.splitlines())
    return [row[1] for row in rows if len(row) == 2 and row[0] == suite][:1]


class BareSystem:
    """Use as a context manager. Commands run in the lab's host namespace, outside its scope."""

    def __init__(self, lab: Lab, tree: Path) -> None:
        self._lab = lab
        self._tree = tree
        self._folder = lab.directory / "bare"
        self._manager = socket.socket()
        self._agent: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        root = self._folder / "root"
        for folder in ("root", "upper", "work"):
            (self._folder / folder).mkdir(parents=True)
        self._holder = self._lab.run(
            self._lab.host,
            ["unshare", "--mount", "sh", "-ceu", _ENTER, "sh", root, self._tree, self._folder],
            cgroup=None,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline().strip() != "entered":
            raise RuntimeError(self._holder.stderr.read())
        with namespaces.entered(self._lab.host):  # an abstract socket's name belongs to a network namespace
            self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(f"\0{self._folder}")
        return self

    def __exit__(self, *error: object) -> None:
        if self._agent is not None:
            processes.end(self._agent, timeout_s=15)
        processes.end(self._holder)
        self._manager.close()

    def path(self, inside: str) -> Path:
        """The file as this process reaches it."""
        return Path(f"/proc/{self._holder.pid}/root") / inside.lstrip("/")

    def written(self) -> list[str]:
        """Every path that is there now and was not in the tree."""
        found = []
        for here, folders, files in os.walk(self._folder / "upper"):
            inside = "/" + os.path.relpath(here, self._folder / "upper")
            found += [os.path.normpath(f"{inside}/{name}") for name in (*folders, *files)]
        return sorted(one for one in found if not os.path.lexists(self._tree / one.lstrip("/")))

    def start(self, argv: Sequence[str | Path], **popen: Any) -> subprocess.Popen[str]:
        inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *argv]
        return self._lab.run(self._lab.host, inside, cgroup=None, **popen)

    def run(self, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        process = self.start(argv, env=_environment())
        out, err = process.communicate(timeout=120)
        if check and process.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, argv))} ended with {process.returncode}: {out}{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def dpkg(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run("dpkg", *arguments)

    def install(self, package: Path) -> None:
        inside = self.path(f"/root/{package.name}")
        shutil.copy(package, inside)
        self.dpkg("--install", f"/root/{package.name}")
        inside.unlink()

    def rpm(self, action: str, what: str | Path) -> None:
        """Raises RuntimeError where it, or a script, complains."""
        if isinstance(what, Path):
            inside = self.path(f"/root/{what.name}")
            shutil.copy(what, inside)
            what = f"/root/{what.name}"
        # its data base knows nothing of Debian's packages: the rpm of Debian 12 wants to hear that this is so
        force = ["--force-debian"] if "--force-debian" in self.run("rpm", "--help").stdout else []
        done = self.run("rpm", *force, "--nodeps", "--dbpath", "/var/lib/rpm", action, what)
        complaints = [line for line in done.stderr.splitlines() if not line.endswith(".rpmsave")]
        if complaints:
            raise RuntimeError("\n".join(complaints))

    def write(self, inside: str, text: str) -> None:
        self.path(inside).write_text(text)

    def start_agent(self, *before: str) -> None:
        """As the unit does; returns when the agent has said that it is ready.

        `before`: a command that execs the rest."""
        self._forget_told()
        with (self._folder / "agent.log").open("a") as log:
            self._agent = self.start(
                [*before, "/usr/bin/licet", "run", "--quiet"],
                env=_environment() | {"NOTIFY_SOCKET": f"@{self._folder}", "WATCHDOG_USEC": "3000000"},
                stdout=log,
                stderr=log,
            )
        self.wait_told("READY=1")

    def _forget_told(self) -> None:
        """Forget what an agent before this one told: each reload ends with READY=1, too."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._manager.recv(4096, socket.MSG_DONTWAIT)

    def wait_told(self, field: str) -> None:
        """Until the agent has told its service manager that. Raises RuntimeError if it ends first."""

        def told() -> bool:
            try:
                return field in self._manager.recv(4096, socket.MSG_DONTWAIT).decode().splitlines()
            except BlockingIOError:
                if self._agent is None or self._agent.poll() is not None:
                    raise RuntimeError(f"the agent ended before {field}: {self.log()}") from None
                return False

        wait_for(told, f"the agent says {field}", timeout_s=90)  # all is compiled before

    def stop_agent(self) -> int:
        assert self._agent is not None
        status = processes.end(self._agent, timeout_s=15)
        self._agent = None
        return status

    @property
    def agent(self) -> subprocess.Popen[str]:
        assert self._agent is not None
        return self._agent

    def log(self) -> str:
        return (self._folder / "agent.log").read_text()[-4000:]

    def metrics(self) -> Samples:
        status, body = self._lab.http_get(self._lab.host, "127.0.0.1", 9477, "/metrics")
        if status != 200:
            raise RuntimeError(f"/metrics answered {status}: {body}")
        return parse_metrics(body)


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
