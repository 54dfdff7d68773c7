"""Which reloads are told by a `policy` event, and how often."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import pytest

from agent.daemon.loop.policy_reload import MOST_AT_ONCE, PolicyReload
from agent.daemon.loop.schedule import Background
from agent.daemon.reporting.allowance import Allowance
from agent.errors import PolicyError


class Parts:
    """All parts of a reload. `is_new`: whether the next one compiles tables."""

    def __init__(self) -> None:
        self.busy = asyncio.Lock()
        self.wake = asyncio.Event()
        self.policy_is_in_force = False
        self.last_error = self.problem = ""
        self.is_new = True
        self.is_bad = False
        self.told: list[str] = []

    def reload(self, *, unless_same: bool) -> bool:
        if self.is_bad:
            self.last_error = "it has a mistake"
            raise PolicyError(path="policy.yaml", line=1, reason=self.last_error)
        self.last_error = ""
        return self.is_new or not unless_same

    def passing(self, _name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def policy_loaded(self) -> None:
        self.told.append("loaded")

    def policy_refused(self, _why: str) -> None:
        self.told.append("refused")

    async def settle(self) -> None:
        """There are no gates."""

    def follow(self) -> bool:
        return False

    def is_due(self) -> bool:
        return False

    def is_elsewhere(self) -> bool:
        return False

    def reloaded(self) -> None:
        """Nobody looks."""

    tell = restore = look_again = note_in_force = store = reloaded

    @property
    def policy(self) -> object:
        return self


def of(parts: Parts) -> PolicyReload:
    names = ("keeper", "reports", "troubles", "passes", "retry", "files", "host", "program_settings")
    others = ("overrides", "gates", "cutter", "execs", "last_hour")
    some = {**dict.fromkeys((*names, *others), parts), "manager": None, "quiet": False}
    return PolicyReload(**cast(dict[str, Any], {**some, "background": Background()}))


def test_a_change_that_changes_nothing_is_no_event() -> None:
    async def run() -> list[str]:
        parts = Parts()
        reload = of(parts)
        parts.is_new = False
        for _ in range(5):
            await reload.reload_quietly(unless_same=True)
        return parts.told

    assert asyncio.run(run()) == []


def test_a_reload_that_somebody_asked_for_is_always_told() -> None:
    async def run() -> int:
        parts = Parts()
        reload = of(parts)
        parts.is_new = False
        for _ in range(MOST_AT_ONCE + 5):
            await reload.reload()
        return len(parts.told)

    assert asyncio.run(run()) == MOST_AT_ONCE + 5


def test_the_end_of_a_mistake_is_told_though_the_policy_is_the_same() -> None:
    async def run() -> list[str]:
        parts = Parts()
        reload = of(parts)
        parts.is_new, parts.is_bad = False, True
        await reload.reload_quietly(unless_same=True)
        parts.is_bad = False
        await reload.reload_quietly(unless_same=True)
        return parts.told

    assert asyncio.run(run()) == ["refused", "loaded"]


@pytest.mark.parametrize("more", [0, 1, 50])
def test_changes_beyond_the_allowance_are_one_event_later(more: int) -> None:
    async def run() -> tuple[int, int, int]:
        parts, now_s = Parts(), [0.0]
        reload = of(parts)
        reload._allowance = Allowance(MOST_AT_ONCE, 1, lambda: now_s[0])
        for _ in range(MOST_AT_ONCE + more):
            await reload.reload_quietly(unless_same=True)
        at_once = len(parts.told)
        await reload.follow_up()
        waiting = len(parts.told)
        now_s[0] = 30.0
        for _ in range(3):
            await reload.follow_up()
        return at_once, waiting, len(parts.told)

    last = MOST_AT_ONCE + (1 if more else 0)
    assert asyncio.run(run()) == (MOST_AT_ONCE, MOST_AT_ONCE, last)
