"""Files that change faster than they can be read again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, cast

from agent.daemon.loop.policy_reload import PolicyReload
from agent.daemon.loop.schedule import Background
from agent.errors import PolicyError


class Parts:
    """All parts that a reload needs until it has read the files. `reading`: what a read waits for."""

    def __init__(self) -> None:
        self.busy = asyncio.Lock()
        self.policy_is_in_force = False
        self.last_error = ""
        self.reads = 0
        self.reading = threading.Event()

    def reload(self, *, unless_same: bool) -> bool:
        assert unless_same
        self.reads += 1
        self.reading.wait(10)
        raise PolicyError(path="policy.yaml", line=1, reason="it has a mistake")

    def passing(self, _name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def changed(self) -> bool:
        return True

    def policy_refused(self, _why: str) -> None:
        """Nobody looks."""

    def reloaded(self) -> None:
        """Nobody looks."""


def of(parts: Parts, background: Background) -> PolicyReload:
    names = ("keeper", "reports", "troubles", "passes", "retry", "files", "host")
    others = ("program_settings", "overrides", "gates", "cutter", "execs", "last_hour", "manager")
    some = {**dict.fromkeys(names, parts), **dict.fromkeys(others), "background": background, "quiet": False}
    return PolicyReload(**cast(dict[str, Any], some))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


def test_changes_while_a_reload_waits_need_no_further_one() -> None:
    async def many() -> int:
        parts = Parts()
        reload = of(parts, Background())
        reload.look_at_files()
        await until(lambda: parts.reads == 1)
        for _ in range(100):
            reload.look_at_files()  # while the first one reads: one more, for all of them
        parts.reading.set()
        await until(lambda: parts.reads == 2 and not parts.busy.locked())
        for _ in range(100):
            await asyncio.sleep(0)
        assert parts.reads == 2
        reload.look_at_files()
        await until(lambda: parts.reads == 3)
        return parts.reads

    assert asyncio.run(many()) == 3
