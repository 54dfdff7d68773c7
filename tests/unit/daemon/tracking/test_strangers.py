"""Who served, or tried to serve, what others own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.daemon.tracking import use_records
from agent.daemon.tracking.strangers import REMEMBERED, Strangers
from agent.model import HostFacts, PortClass, Process, Target
from agent.policy.values import Policy
from tests.unit.daemon.tracking.test_listeners import FACTS, HOST, NETCAT, POSTGRES, World, listener, policy
from tests.unit.daemon.worlds import LOOPBACK

DB = Target("db", PortClass.INTERNAL)


@dataclass
class InForce:
    """A keeper of one policy."""

    policy: Policy = field(default_factory=policy)
    facts: HostFacts = FACTS


class Watch:
    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.now_ns = 10**12
        self.strangers = Strangers(
            self.world.listening,
            InForce(),
            clock=lambda: self.now_ns,  # type: ignore[arg-type]
        )

    def heard(self, process: Process, port: int = 5432) -> None:
        self.strangers.heard(99, HOST, LOOPBACK, port, process)

    def found(self, since_ns: int = 0) -> list[tuple[str, str, int]]:
        return [(one.process.comm, one.how, one.times) for one in self.strangers.since(since_ns)]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_who_listened_for_a_moment_is_remembered_and_counted(watch: Watch) -> None:
    for _ in range(3):
        watch.heard(NETCAT)
    watch.heard(POSTGRES)
    watch.heard(NETCAT, port=1234)
    assert watch.found() == [("nc", "listened", 3)]
    assert watch.found(since_ns=watch.now_ns + 1) == []


def test_one_that_listens_now_is_shown_once(watch: Watch) -> None:
    watch.heard(NETCAT)
    watch.strangers.refused(DB, LOOPBACK, 5432, NETCAT)
    watch.world.look(listener(LOOPBACK, 5432, NETCAT), by=policy())
    assert watch.found() == [("nc", "listens", 1), ("nc", "refused", 1)]
    watch.world.look(by=policy())
    assert watch.found() == [("nc", "refused", 1), ("nc", "listened", 1)]


def test_others_cannot_make_it_grow(watch: Watch) -> None:
    for number in range(REMEMBERED + 10):
        watch.strangers.refused(DB, LOOPBACK, 5432, replace(NETCAT, exe=f"/tmp/{number}"))
    found = watch.strangers.since(0)
    assert len(found) == REMEMBERED
    assert found[0].process.exe == f"/tmp/{REMEMBERED + 9}"


def test_a_later_daemon_knows_of_them(watch: Watch, tmp_path: Path) -> None:
    watch.heard(NETCAT)
    watch.strangers.refused(DB, LOOPBACK, 5432, replace(NETCAT, exe="/old"))
    kept = json.loads(json.dumps([use_records.stranger_to_json(one) for one in watch.strangers.seen(0)]))
    assert watch.strangers.seen(watch.now_ns + 1) == []
    later = Watch(tmp_path)
    damaged = [7, {}, {**kept[0], "port": "x"}, {**kept[0], "process": None}, {**kept[0], "target": 5}]
    later.strangers.restore(use_records.readable_strangers([*damaged, *kept]))
    assert later.found() == watch.found()
