from __future__ import annotations

import pytest

from agent.daemon.tracking.unnamed_containers import Unnamed


class Found:
    """Where runtimes keep their state."""

    def found(self) -> dict[str, str]:
        return {"docker": "", "containerd": "/run/containerd"}


def test_a_container_without_a_name_is_said_once_and_with_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 100.0
    unnamed = Unnamed(Found(), lambda: now_s)  # type: ignore[arg-type]
    unnamed.follow({"/docker/1": 95.0})
    assert not caplog.messages, "its runtime may still write it down"
    now_s = 106.0
    for _ in range(3):
        unnamed.follow({"/docker/1": 95.0})
    (said,) = caplog.messages
    for part in ("/docker/1", "`containers` in config.yaml", "found: /run/containerd"):
        assert part in said
    unnamed.follow({"/docker/1": 95.0, "/docker/2": 96.0, "/docker/3": 96.0})
    assert "/docker/2 and 1 more" in caplog.messages[1]
    unnamed.follow({})
    assert len(caplog.messages) == 2
