"""A host made for judging: the real programs, and processes of any executable, identity and place.

The mount namespace in which clients run holds nothing but copies of one static program under the paths that
policies name, so the kernel walks exactly those paths. No daemon runs: a test installs tables and makes one
attempt at a time.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from agent.config import Paths, Scope, Settings
from agent.kernel import abi, libbpf
from agent.kernel.load import load
from agent.kernel.maps import Counters, PolicyMaps
from agent.kernel.pins import Pins
from agent.model import Decision, Destination, LocalConsumer, Origin, Protocol, Reason, Verdict, show_address
from agent.observe.netns import own_cookie
from agent.policy.hashing import string_hash
from agent.policy.tables import Dimension, Tables
from tests.fixtures import cgroups, namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import BPFFS, KEPT, remove_pins
from tests.fixtures.names import new_name
from tests.fixtures.namespaces import Namespace

SOURCE = Path(__file__).parents[1] / "fixtures" / "connect.c"
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 1 << 18, 2
REAL_UID, REAL_GID = 1998, 2998
"""Real ids of every client. Policies never name them: only effective ids are judged."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Client:
    """A process to be: what the kernel will see of it."""

    exe: str
    uid: int = 1004
    gid: int = 2999
    groups: tuple[int, ...] = ()
    """Supplementary ones."""
    cgroup: str = ""
    netns: int = 0
    """Cookie; 0: the host's."""
    trusted: bool = True
    """False: in a mount namespace that the process has made itself, without privilege."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One attempt as the kernel counted it."""

    verdict: Verdict
    origin: Origin
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one attempt has changed in the counters."""

    judged: Mapping[Judged, int] = field(default_factory=dict)
    outbound: int = 0
    """Unprotected ones."""
    inbound: int = 0
    uses: tuple[tuple[abi.UseKey, abi.Use], ...] = field(default=(), compare=False)


class World:
    """Use as a context manager. Needs root."""

    def __init__(self) -> None:
        self._cleanup = ExitStack()
        self.lab = Lab()
        self.bare = Namespace(f"{new_name()}-bare", "", "")
        """A network namespace with nothing in it but its loopback."""

    def __enter__(self) -> Self:
        try:
            self._cleanup.enter_context(self.lab)
            self._cleanup.callback(namespaces.remove, self.bare.name)
            namespaces.create(self.bare)
            self._load()
            self._make_root()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def _load(self) -> None:
        root = BPFFS / new_name()
        self._cleanup.callback(remove_pins, root)
        settings = Settings(
            scope=Scope(cgroup=self.lab.scope),
            paths=Paths(
                run=self.lab.directory / "run", state=self.lab.directory / "state", pins=root, programs=KEPT
            ),
        )
        load(settings, cgroups.directory(self.lab.scope))
        pins = Pins(root)
        self._maps = PolicyMaps(pins)
        self.counters = Counters(pins)
        self._count_rows = pins.open_map("counts")
        self.seed = self._maps.ensure_seed()
        self._maps.tune(host_netns=self.host_netns, edges=False, flow_events=False)
        self._ring = libbpf.RingReader(self.counters.ring.fd)
        self._cleanup.callback(self._ring.close)

    def _make_root(self) -> None:
        program = self.lab.directory / "connect"
        build = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"]
        subprocess.run([*build, str(program), str(SOURCE)], check=True)
        mount_namespace, root = _new_mount_namespace(self.lab.directory / "root")
        self._cleanup.callback(os.close, root)
        self._cleanup.callback(os.close, mount_namespace)
        self._mount_namespace = mount_namespace
        self.root = Path(f"/proc/self/fd/{root}")
        """The clients' root directory, as seen from here."""
        shutil.copy2(program, self.root / "program")

    def add_program(self, path: str, *, link: bool = False) -> None:
        """Put the client there. link: the same file under one more name."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if link:
            place.hardlink_to(self.root / "program")
        else:
            shutil.copy2(self.root / "program", place)

    @cached_property
    def host_netns(self) -> int:
        return _cookie(self.lab.host)

    @cached_property
    def netns(self) -> dict[str, int]:
        """Cookies by role; "unknown" is one that a test's facts leave out."""
        places = {"container": self.lab.container, "bare": self.bare, "unknown": self.lab.remote}
        return {"host": self.host_netns} | {role: _cookie(place) for role, place in places.items()}

    @cached_property
    def _namespace_fds(self) -> dict[int, int]:
        found = {}
        for place in (self.lab.host, self.lab.container, self.bare, self.lab.remote):
            found[_cookie(place)] = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
            self._cleanup.callback(os.close, found[_cookie(place)])
        return found

    def install(self, tables: Tables) -> None:
        self._maps.install(tables)

    def attempt(self, client: Client, destination: Destination, *, mapped: bool = False) -> Seen:
        """One connect(), and what it changed. mapped: to an IPv4 address through an AF_INET6 socket."""
        address = show_address(destination.address)
        if mapped and ":" not in address:
            address = f"::ffff:{address}"
        kind = destination.protocol.name.lower()
        return self.changes(lambda: self._run(client, [kind, address, str(destination.port)]))

    def changes(self, action: Callable[[], None]) -> Seen:
        """What `action` changes in the counters. Rows of consumers from before are let go of."""
        for key in self.counters.uses:
            self.counters.uses.remove(key)
        self._ring.drain()  # so that every attempt is told, and its verdict stays as it was told
        unprotected, counts = self.counters.unprotected(), self._counts()
        action()
        after = self.counters.unprotected()
        uses = tuple(_use(key, value) for key, value in self.counters.uses.items())
        judged = {}
        for row, count in self._counts().items():
            if count != counts.get(row, 0):
                judged[_judged(row, uses)] = count - counts.get(row, 0)
        return Seen(
            judged,
            outbound=after["outbound"] - unprotected["outbound"],
            inbound=after["inbound"] - unprotected["inbound"],
            uses=uses,
        )

    def _counts(self) -> dict[bytes, int]:
        return {
            key: sum(count for (count,) in abi.U64.iter_unpack(value))
            for key, value in self._count_rows.items()
        }

    def _run(self, client: Client, arguments: list[str]) -> None:
        procs = os.open(cgroups.directory(client.cgroup or self.lab.scope) / "cgroup.procs", os.O_WRONLY)
        network = self._namespace_fds[client.netns or self.host_netns]
        try:
            done = subprocess.run(
                [client.exe, *arguments],
                preexec_fn=lambda: _become(client, procs, network, self._mount_namespace),
                close_fds=False,  # all are close-on-exec; to list them takes a /proc, which is not there
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        finally:
            os.close(procs)
        if done.returncode:
            raise RuntimeError(f"{client}: {arguments} ended with {done.returncode}: {done.stderr}")

    def only_cgroups(self, wanted: Iterable[str], known: Iterable[str]) -> dict[str, int]:
        """Of the cgroups `known`, make those `wanted`, and remove the others. Ids by path, all that exist."""
        wanted = set(wanted)
        for path in sorted(set(known) - wanted, key=len, reverse=True):
            if cgroups.directory(path).exists():
                cgroups.directory(path).rmdir()
        for path in wanted:
            cgroups.make(path)
        return {path: cgroups.directory(path).stat().st_ino for path in {self.lab.scope, *wanted}}

    def settle(self, made: Mapping[str, int], tables: Tables | None = None) -> None:
        """What user space does with cgroups it has heard of that are nothing to the policy."""
        for path, number in made.items():
            place = (Dimension.CGROUP_PATH, string_hash(path, self.seed))
            if tables is None or place not in tables.members:
                self._maps.remove_member(Dimension.CGROUP, number)


def client_of(consumer: LocalConsumer, scope: str) -> Client:
    """A process that the kernel sees as this consumer. exe "": its name is not to be trusted."""
    gid, *groups = sorted(consumer.gids)
    return Client(
        exe=consumer.exe or "/usr/bin/psql",
        uid=consumer.uid,
        gid=gid,
        groups=tuple(groups),
        cgroup=consumer.cgroups[0] if consumer.cgroups else scope,
        netns=consumer.netns,
        trusted=bool(consumer.exe),
    )


def _use(key: bytes, value: bytes) -> tuple[abi.UseKey, abi.Use]:
    return abi.UseKey.from_buffer_copy(key), abi.Use.from_buffer_copy(value)


def _judged(row: bytes, uses: Iterable[tuple[abi.UseKey, abi.Use]]) -> Judged:
    """A row of counts, with the grant from the row of uses that was made with it (-1: there is none)."""
    raw = abi.CountKey.from_buffer_copy(row)
    grant = next((use.verdict.grant for key, use in uses if _same(key, raw)), -1)
    return Judged(
        Verdict(Decision(raw.decision), Reason(raw.reason), raw.target, grant),
        Origin(raw.origin),
        Protocol(raw.protocol),
    )


def _same(key: abi.UseKey, row: abi.CountKey) -> bool:
    return all(
        getattr(key, name) == getattr(row, name)
        for name in ("target", "decision", "reason", "origin", "protocol")
    )


def _cookie(namespace: Namespace) -> int:
    with namespaces.entered(namespace):
        return own_cookie()


def _become(client: Client, procs: int, network: int, mount_namespace: int) -> None:
    """Between fork and exec."""
    os.write(procs, b"0")
    namespaces.setns(network)
    _call(_libc.setns, mount_namespace, CLONE_NEWNS)
    os.setgroups(client.groups)
    os.setresgid(REAL_GID, client.gid, client.gid)
    os.setresuid(REAL_UID, client.uid, client.uid)
    if not client.trusted:
        _call(_libc.unshare, CLONE_NEWUSER | CLONE_NEWNS)


def _new_mount_namespace(directory: Path) -> tuple[int, int]:
    """fds of a mount namespace made by root, and of its root directory: an empty tmpfs. It goes with the
    last of them, and nothing of it is ever mounted here."""
    found: list[int] = []
    errors: list[OSError] = []

    def make() -> None:
        try:
            # a thread of its own: the root directory of a thread that has unshared is its own, too
            _call(_libc.unshare, CLONE_NEWNS)
            found.append(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
            _call(_libc.mount, b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            _call(_libc.mount, b"tmpfs", os.fsencode(directory), b"tmpfs", 0, b"mode=755")
            found.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            os.chdir(directory)
            _call(_libc.pivot_root, b".", b".")
            _call(_libc.umount2, b".", MNT_DETACH)
        except OSError as error:
            errors.append(error)

    directory.mkdir()
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if errors:
        for fd in found:
            os.close(fd)
        raise errors[0]
    mount_namespace, root = found
    return mount_namespace, root


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{getattr(function, '__name__', function)}: {os.strerror(code)}")
