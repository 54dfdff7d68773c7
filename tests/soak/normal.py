"""Normal use: about 20 attempts a second, each with one right verdict, which adds to one counter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.fixtures.namespaces import Namespace
from tests.soak import world
from tests.soak.world import Program, World

Key = tuple[str, str, str]
"""Service, origin, decision."""
OK, REFUSED_HERE, REFUSED_THERE = "ok", "EPERM", "ECONNREFUSED,silence"


@dataclass(frozen=True, slots=True)
class Kind:
    """`sources`: addresses to come from, in turns."""

    service: str
    place: str
    address: str
    port: int
    way: str
    rate: float
    right: str
    decision: str
    uid: int | None = None
    sources: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        origin = {"host": "loopback"}.get(self.place, self.place)
        return self.service, origin, self.decision


HERE, OF_HOST, OF_LINK = "127.0.0.1", "10.77.1.1", world.AT_REMOTE
LICENSED, OTHER = world.LICENSED, world.UNLICENSED
FROM_LICENSED, FROM_OTHER = tuple(world.LICENSED_SOURCES), tuple(world.OTHER_SOURCES)
KINDS = (
    Kind("db", "host", HERE, world.DB, "tcp", 2, OK, "allowed", LICENSED),
    Kind("db", "host", "::1", world.DB, "tcp", 1, OK, "allowed", LICENSED),
    Kind("db", "host", HERE, world.DB, "tcp", 2, REFUSED_HERE, "denied", OTHER),
    Kind("db", "container", OF_HOST, world.DB, "tcp", 1, OK, "allowed", LICENSED),
    Kind("db", "container", OF_HOST, world.DB, "tcp", 1, REFUSED_HERE, "denied", OTHER),
    Kind("db", "remote", OF_LINK, world.DB, "tcp", 1, OK, "allowed", sources=FROM_LICENSED),
    Kind("db", "remote", OF_LINK, world.DB, "tcp", 1, REFUSED_THERE, "denied", sources=FROM_OTHER),
    Kind("dns", "host", HERE, world.DNS, "udp", 1, OK, "allowed", LICENSED),
    Kind("dns", "host", HERE, world.DNS, "udp", 1, REFUSED_HERE, "denied", OTHER),
    Kind("dns", "container", OF_HOST, world.DNS, "udp", 1, OK, "allowed", LICENSED),
    Kind("dns", "container", OF_HOST, world.DNS, "udp", 1, REFUSED_HERE, "denied", OTHER),
    Kind("dns", "remote", OF_LINK, world.DNS, "udp", 1, OK, "allowed", sources=FROM_LICENSED),
    Kind("dns", "remote", OF_LINK, world.DNS, "udp", 1, REFUSED_THERE, "denied", sources=FROM_OTHER),
    Kind("web", "host", HERE, world.WEB, "tcp", 1, OK, "allowed", LICENSED),
    Kind("web", "host", HERE, world.WEB, "tcp", 1, OK, "denied", OTHER),
    Kind("web", "container", OF_HOST, world.WEB, "tcp", 1, OK, "denied", OTHER),
    Kind("web", "remote", OF_LINK, world.WEB, "tcp", 1, OK, "denied", sources=FROM_OTHER),
)
BY_PROGRAM: Key = ("db", "loopback", "allowed")
BY_PROGRAM_RATE = 2


class Normal:
    def __init__(self, world_: World) -> None:
        self._world = world_
        self._programs: list[tuple[Key, Program]] = []

    def start(self) -> None:
        lab = self._world.lab
        places: dict[str, Namespace] = {
            "host": lab.host,
            "container": lab.container,
            "remote": lab.remote,
        }
        for kind in KINDS:
            name = f"{kind.service} from {kind.place}, {kind.decision}, {kind.address}"
            arguments = (kind.address, kind.port, kind.way, kind.rate, kind.right, *kind.sources)
            started = self._world.start(name, "attempts", places[kind.place], *arguments, uid=kind.uid)
            self._programs.append((kind.key, started))
        licensed = lab.executable("opt/licensed")
        arguments = (BY_PROGRAM_RATE, licensed, HERE, world.DB)
        runs = self._world.start("db by its program", "runs", lab.host, *arguments, uid=OTHER)
        self._programs.append((BY_PROGRAM, runs))

    def made(self) -> Counter[Key]:
        """Once all have ended."""
        found: Counter[Key] = Counter()
        for key, program in self._programs:
            found[key] += program.said.get("made", 0)
        return found

    def wrong(self) -> list[str]:
        return [f"{program.name}: {one}" for _, program in self._programs for one in program.wrong]
