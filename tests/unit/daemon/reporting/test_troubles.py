"""Since when an agent is not ready: of the oldest of what is wrong, anew once that is mended."""

from __future__ import annotations

import time

import pytest

from agent.daemon.reporting.troubles import Troubles


def test_it_is_not_ready_since_the_oldest_of_what_keeps_it_from_being(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong: dict[str, str] = {"state": "", "pins": "", "clock": ""}
    troubles = Troubles({cause: lambda cause=cause: wrong[cause] for cause in wrong})

    def at(now_s: float, **changes: str) -> float | None:
        monkeypatch.setattr(time, "time", lambda: now_s)
        wrong.update(changes)
        return troubles.not_ready_since()

    assert at(10) is None
    assert at(20, clock="set back") is None  # it is ready all the same
    assert at(30, state="disk full") == 30
    assert at(40, pins="another's") == 30
    assert at(50, state="") == 40
    assert at(60, pins="") is None
    assert at(70, state="disk full") == 70
