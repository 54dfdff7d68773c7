from __future__ import annotations

from agent.daemon.reporting.passes import LATE_S, Passes


def test_a_pass_that_does_not_end_is_told_until_it_ends() -> None:
    now_s = 0.0
    passes = Passes(lambda: now_s)
    with passes.passing("Daemon._look"):
        now_s += LATE_S / 2
        with passes.passing("Daemon._look"), passes.passing("reload"):
            now_s += LATE_S / 2 + 1
            assert "Daemon._look: under way" in passes.problem
        assert "Daemon._look" in passes.problem
    assert passes.problem == ""
