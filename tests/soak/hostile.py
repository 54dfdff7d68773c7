"""What an unprivileged user (uid 1666) and a remote host do against the agent, all at once, each at a bounded
rate."""

from __future__ import annotations

import os
from collections import Counter

from tests.fixtures.running_agent import RunningAgent
from tests.kernel.tc_world import link_address
from tests.soak import world
from tests.soak.normal import Key
from tests.soak.world import Program, World

SYN_RATE, HALF_OPEN_RATE, DATAGRAM_RATE = 400, 100, 100
FRESH_RATE, DEEP_RATE, CGROUP_RATE, NETWORK_RATE = 20, 5, 20, 1
DEEP = 30
"""Directories: a path is walked for 24 of them."""
IDLE = 300


class Hostile:
    def __init__(self, world_: World, agent: RunningAgent) -> None:
        self._world = world_
        self._agent = agent
        self._local: list[Program] = []
        self.syns: Program
        self.datagrams: Program

    def start(self) -> None:
        self._floods()
        self._crowds()
        self._names()
        self._places()

    def _floods(self) -> None:
        remote, start = self._world.lab.remote, self._world.start
        to = ("eth0", link_address(self._world.lab.host, "to-remote").hex(), world.AT_REMOTE)
        self.syns = start("spoofed SYNs, refused", "spoof", remote, *to, SYN_RATE, "syn", world.SPOOFED, 11)
        start("spoofed SYNs, half open", "spoof", remote, *to, HALF_OPEN_RATE, "syn", world.HALF_OPEN, 12)
        self.datagrams = start(
            "spoofed datagrams", "spoof", remote, *to, DATAGRAM_RATE, "udp", world.SPOOFED, 13
        )

    def _crowds(self) -> None:
        lab, start = self._world.lab, self._world.start
        attacker = {"uid": world.ATTACKER}
        control = self._agent.files.control
        start("idle from elsewhere", "crowd", lab.remote, world.AT_REMOTE, world.LISTEN, IDLE, 60)
        start("idle from here", "crowd", lab.host, "127.0.0.1", world.LISTEN, 100, 20, **attacker)
        start("garbage from elsewhere", "garbage", lab.remote, 10, world.AT_REMOTE, world.LISTEN)
        start("garbage from here", "garbage", lab.host, 5, "127.0.0.1", world.LISTEN, **attacker)
        start("garbage to health", "garbage", lab.host, 2, "127.0.0.1", world.HEALTH, **attacker)
        start("garbage to control", "garbage", lab.host, 5, control, **attacker)
        # as one who may use the reading commands: group licet
        os.chown(control, -1, world.IN_GROUP)
        start("garbage of its group", "garbage", lab.host, 5, control, uid=world.IN_GROUP)

    def _names(self) -> None:
        lab, uid = self._world.lab, world.ATTACKER
        for name, depth, rate in (("fresh", 0, FRESH_RATE), ("deep", DEEP, DEEP_RATE)):
            folder = self._world.folder_of(uid, name)
            arguments = (self._world.connect_program, folder, depth, rate, world.BAIT, world.LURE)
            self._local.append(self._world.start(f"{name} names", "fresh", lab.host, *arguments, uid=uid))

    def _places(self) -> None:
        lab, start, attacker = self._world.lab, self._world.start, {"uid": world.ATTACKER}
        cgroup, folder = self._world.delegated_cgroup(world.ATTACKER)
        arguments = (folder, CGROUP_RATE, world.BAIT, world.LURE)
        cgroups = start("own cgroups", "own_cgroups", lab.host, *arguments, cgroup=cgroup, **attacker)
        self._local.append(cgroups)
        networks = (NETWORK_RATE, 5, lab.host.v4, world.OWN, world.DB, world.BAIT, 80, 9477)
        start("own networks", "own_networks", lab.host, *networks, **attacker)
        start("listens", "listens", lab.host, 3000, 5, 10, world.CROWDED, world.DB, **attacker)

    def made(self) -> Counter[Key]:
        """By local programs and cgroups, once all have ended: all are denied, at bait they are refused."""
        services = {str(world.BAIT): "bait", str(world.LURE): "lure"}
        found: Counter[Key] = Counter()
        for program in self._local:
            for port, count in program.said.get("made", {}).items():
                found[services[port], "loopback", "denied"] += count
        return found

    def wrong(self) -> list[str]:
        return [f"{program.name}: {one}" for program in self._local for one in program.wrong]
