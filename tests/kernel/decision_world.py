"""A host made for judging: the real programs, and processes of any executable, identity and place.

The host whose processes they are is a pid namespace of the world's own. The root directory of its process 1
holds nothing but copies of one static program under the paths that policies name, so the kernel walks exactly
those paths. No daemon runs: a test installs tables and makes one
attempt at a time.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from agent import abi
from agent.config import Paths, Scope, Settings
from agent.kernel.attach.gates import OBSERVE_SEND, CgroupGate
from agent.kernel.loading.supervisor import load, load_datagrams
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.policy_maps import Members, PolicyMaps
from agent.model import Decision, Destination, LocalConsumer, Origin, Protocol, Reason, Verdict, show_address
from agent.policy.decision.consumer_sets import cgroup_member
from agent.policy.tables.shape import MEMBER_CONTAINER, MEMBER_FLAGS, MEMBER_UNSURE, Dimension, Tables
from agent.system import bpf_map
from agent.system.bpf_ring import RingReader
from agent.system.netns import own_cookie
from tests.fixtures import cgroups, namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import BPFFS, KEPT, remove_pins
from tests.fixtures.names import new_name
from tests.fixtures.namespaces import Namespace

SOURCE = Path(__file__).parents[1] / "fixtures" / "connect.c"
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
PR_SET_PDEATHSIG = 1
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 1 << 18, 2
PLACES = ("opt", "usr/bin", "srv")
"""Where programs are found below another root directory, too: this machine's."""
REAL_UID, REAL_GID = 1998, 2998
"""Real ids of every client. Policies never name them: only effective ids are judged."""

OTHER_UID = 1497
"""Who is given parts of the cgroup tree."""

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
    elsewhere: bool = False
    """With a root directory other than the host's."""
    own_pids: bool = False
    """In a pid namespace that root has made."""
    owners: tuple[tuple[int, int], ...] = ()
    """(uid, gid) of who owns its user namespace, and each around it."""


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
        self._user_namespaces: dict[tuple[tuple[int, int], ...], int] = {}
        self.bare = Namespace(f"{new_name()}-bare", "", "")
        """A network namespace with nothing in it but its loopback."""

    def __enter__(self) -> Self:
        try:
            self._cleanup.enter_context(self.lab)
            self._cleanup.callback(namespaces.remove, self.bare.name)
            namespaces.create(self.bare)
            self._load()
            self._make_root()
            pids = os.fstat(self._pid_namespace).st_ino
            self._maps.tune(host_netns=self.host_netns, edges=False, flow_events=False, host_pidns=pids)
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def _load(self) -> None:
        root = BPFFS / new_name()
        self._cleanup.callback(remove_pins, root)
        self.settings = Settings(
            scope=Scope(cgroup=self.lab.scope),
            paths=Paths(
                run=self.lab.directory / "run", state=self.lab.directory / "state", pins=root, programs=KEPT
            ),
        )
        load(self.settings, cgroups.directory(self.lab.scope))
        self.pins = pins = Pins(root)
        assert load_datagrams(self.settings) == {}
        CgroupGate(pins, cgroups.directory(self.lab.scope), OBSERVE_SEND).attach()
        self._maps = self._cleanup.enter_context(closing(PolicyMaps(pins)))
        self._named: Members | None = None
        self.counters = self._cleanup.enter_context(closing(Counters(pins)))
        self._count_rows = self._cleanup.enter_context(closing(pins.open_map("counts")))
        self.seed = self._maps.ensure_seed()
        self._ring = RingReader(self.counters.ring.fd, self.counters.bulk.fd)
        self._cleanup.callback(self._ring.close)

    def _make_root(self) -> None:
        program = self.lab.directory / "connect"
        build = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"]
        subprocess.run([*build, str(program), str(SOURCE)], check=True)
        here, elsewhere, root = _new_mount_namespaces(self.lab.directory / "root")
        for fd in (here, elsewhere, root):
            self._cleanup.callback(os.close, fd)
        self._mount_namespaces = {False: here, True: elsewhere}
        self._pid_namespace = self._cleanup.enter_context(_pid_namespace(here))
        self.root = Path(f"/proc/self/fd/{root}")
        """The clients' root directory or, elsewhere, that of PLACES only; as seen from here."""
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
        fresh = self._maps.prepare(tables)
        self._maps.put_in_force(fresh)
        if self._named is not None:
            self._named.close()
        self._named = fresh.members

    def drain(self) -> list[bytes]:
        """The events since the last time."""
        return self._ring.drain_all()

    @property
    def members(self) -> bpf_map.Map:
        """Of the tables in force."""
        assert self._named is not None
        return self._named._members

    def override(self, place: int, override: abi.Override, until_ns: int) -> None:
        """Of the target with this number, or 0: of the whole host."""
        self.counters.modes.put(
            abi.U32.pack(place), bytes(abi.RawMode(until_ns=until_ns, override=int(override)))
        )

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
        self.counters.note_uses(dict.fromkeys(self.counters.noted_uses(), 0))
        self._ring.drain_all()  # so that every attempt is told, and its verdict stays as it was told
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
        mounts = self._mount_namespaces[client.elsewhere]
        user = self._user_namespace(client.owners) if client.owners else -1
        try:
            done = subprocess.run(
                [client.exe, *arguments],
                preexec_fn=lambda: _become(client, procs, network, self._pid_namespace, mounts, user),
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

    def _user_namespace(self, owners: tuple[tuple[int, int], ...]) -> int:
        if owners not in self._user_namespaces:
            self._user_namespaces[owners] = new_user_namespace(owners)
            self._cleanup.callback(os.close, self._user_namespaces[owners])
        return self._user_namespaces[owners]

    def only_cgroups(
        self, wanted: Iterable[str], known: Iterable[str], given: Collection[str] = ()
    ) -> dict[str, int]:
        """Of the cgroups `known`, make those `wanted`, and remove the others. Those `given` belong to another
        user before anything is made in them. Ids by path, all that exist."""
        wanted = set(wanted)
        for path in sorted(known, key=len, reverse=True):
            if (path not in wanted or path in given) and cgroups.directory(path).exists():
                cgroups.remove(path)
        made = {path: self.make(path, given) for path in sorted(wanted, key=len)}
        return {self.lab.scope: cgroups.directory(self.lab.scope).stat().st_ino} | made

    def make(self, path: str, given: Collection[str] = ()) -> int:
        """The id of a cgroup, which is made if need be."""
        if not cgroups.directory(path).exists():
            cgroups.make(path)
            if path in given:
                os.chown(cgroups.directory(path), OTHER_UID, OTHER_UID)
        return cgroups.directory(path).stat().st_ino

    def settle(self, path: str, number: int, tables: Tables | None = None) -> None:
        """What user space does with a cgroup it has heard of that is nothing to the policy. What the kernel
        has decided of one that is something, stays."""
        expected = cgroup_member(tables, path) if tables else None
        key = abi.MEMBER_KEY.pack(Dimension.CGROUP, 0, number)
        raw = self.members.get(key)
        value = abi.U32.unpack(raw)[0] if raw else None
        if expected is None:
            assert value is None or value & (MEMBER_UNSURE | MEMBER_CONTAINER), path
            self.members.remove(key)
        else:
            assert value is not None
            assert value & ~MEMBER_FLAGS == expected & ~MEMBER_FLAGS, path


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
        elsewhere=consumer.exe_elsewhere,
        own_pids=consumer.in_pid_namespace,
        owners=consumer.owners,
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


def _become(client: Client, procs: int, network: int, pids: int, mounts: int, user: int) -> None:
    """Between fork and exec."""
    os.write(procs, b"0")
    namespaces.setns(network)
    _call(_libc.setns, mounts, CLONE_NEWNS)
    _call(_libc.setns, pids, CLONE_NEWPID)
    _go_on_in_child()
    if client.own_pids:
        _call(_libc.unshare, CLONE_NEWPID)
        _go_on_in_child()
    if user != -1:
        _call(_libc.setns, user, CLONE_NEWUSER)
    os.setgroups(client.groups)
    os.setresgid(REAL_GID, client.gid, client.gid)
    os.setresuid(REAL_UID, client.uid, client.uid)
    if not client.trusted:
        _call(_libc.unshare, CLONE_NEWUSER | CLONE_NEWNS)


def _go_on_in_child() -> None:
    """A pid namespace is that of one's children."""
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


@contextmanager
def _pid_namespace(mounts: int) -> Iterator[int]:
    """fd of a pid namespace whose process 1 has the root directory of this mount namespace."""
    ready, is_ready = os.pipe()
    child = os.fork()
    if not child:
        try:
            _call(_libc.unshare, CLONE_NEWPID)
            first = os.fork()
            if not first:
                _call(_libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL)
                _call(_libc.setns, mounts, CLONE_NEWNS)
                os.write(is_ready, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(is_ready)
    try:
        if not os.read(ready, 1):
            raise RuntimeError("no pid namespace was made")
        fd = os.open(f"/proc/{child}/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def new_user_namespace(owners: tuple[tuple[int, int], ...]) -> int:
    """fd of a user namespace in which each id is itself; its owner is the first of these, that of the one
    around it the next."""
    made, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            for uid, gid in reversed(owners):
                _enter_user_namespace_of(uid, gid)
            os.write(made[1], b"1")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.close(made[1])
    try:
        if not os.read(made[0], 1):
            raise RuntimeError("no user namespace was made")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for fd in (made[0], *done):
            os.close(fd)


def _enter_user_namespace_of(uid: int, gid: int) -> None:
    """Its ids are mapped by who is root in the one around it, as newuidmap would."""
    made, mapped = os.pipe(), os.pipe()
    own = os.getpid()
    mapper = os.fork()
    if not mapper:
        try:
            os.read(made[0], 1)
            for name in ("gid_map", "uid_map"):
                Path(f"/proc/{own}/{name}").write_text("0 0 4294967295")
            os.write(mapped[1], b"1")
        finally:
            os._exit(0)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _call(_libc.unshare, CLONE_NEWUSER)
    os.close(mapped[1])
    os.write(made[1], b"1")
    if not os.read(mapped[0], 1):
        raise RuntimeError(f"the ids of {uid}'s user namespace are not mapped")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.waitpid(mapper, 0)


def _new_mount_namespaces(directory: Path) -> tuple[int, int, int]:
    """fds of two mount namespaces made by root: one where an empty tmpfs is the root directory, one with this
    machine's, where PLACES are those of the tmpfs; and of that. They go with the last of them, and nothing of
    them is ever mounted here."""
    found: list[int] = []
    errors: list[OSError] = []

    def unshare() -> None:
        _call(_libc.unshare, CLONE_NEWNS)
        found.append(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))

    def make() -> None:
        try:
            # a thread of its own: the root directory of a thread that has unshared is its own, too
            unshare()
            _call(_libc.mount, b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            _call(_libc.mount, b"tmpfs", os.fsencode(directory), b"tmpfs", 0, b"mode=755")
            for place in PLACES:
                (directory / place).mkdir(parents=True)
                _call(_libc.mount, os.fsencode(directory / place), b"/" + place.encode(), None, MS_BIND, None)
            root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            unshare()
            found.append(root)
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
    elsewhere, here, root = found
    return here, elsewhere, root


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{getattr(function, '__name__', function)}: {os.strerror(code)}")
