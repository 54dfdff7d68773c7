"""Whoever serves a file system (FUSE) and leaves a request unanswered holds up no look at processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.observe.disk_look import DiskLook
from agent.observe.patience import WAIT_S, Patience, Unanswered
from agent.observe.proc import ProcReader
from tests.fixtures.silent_files import NAME, silent

NOT_FOR_EVER = Patience(20 * WAIT_S)
pytestmark = pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this kernel has no FUSE")


class Recorded(Patience):
    """Whether each one without an answer was asked, or an earlier question waited still."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bool] = []

    def ask(self, about: str, work: Callable[[], Any], wait_s: float | None = None) -> Any:
        try:
            return super().ask(about, work, wait_s)
        except Unanswered as error:
            self.asked.append(error.is_asked)
            raise


def test_an_executable_that_is_served_by_its_user_is_named_without_asking_him(tmp_path: Path) -> None:
    reader = ProcReader()
    with silent(tmp_path, "exe") as pid:
        process = NOT_FOR_EVER.ask("the process", lambda: reader.process(pid))
        exe = NOT_FOR_EVER.ask("its executable", lambda: reader.exe(pid))
    assert process is not None
    assert process.exe == exe
    assert exe.startswith(str(tmp_path / NAME.partition(" ")[0]))
    assert process.args == (f"{tmp_path}/{NAME}", "60")


def test_a_process_that_holds_the_lock_of_its_memory_has_no_arguments(tmp_path: Path) -> None:
    patience = Recorded()
    reader = ProcReader(patience=patience)
    with silent(tmp_path, "memory") as pid:
        first = NOT_FOR_EVER.ask("the process", lambda: reader.process(pid))
        assert len(patience.unanswered) == 1
        again = NOT_FOR_EVER.ask("the process", lambda: reader.process(pid))
        assert patience.asked == [True, False], "asked again, though there is no answer yet"
    assert first is not None
    assert first == again
    assert (first.args, first.pid) == ((), pid)
    assert "python" in first.exe


def test_a_glob_into_files_that_do_not_answer_costs_its_own_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, program = tmp_path / "home" / "u", tmp_path / "tool"
    home.mkdir(parents=True)
    program.touch(0o755)
    look = DiskLook(Patience(), WAIT_S)
    glob, literal = f"{tmp_path}/home/**", str(program)
    # into its mount namespace, by the root directory of a process there
    with silent(home, "exe") as pid:
        served = f"/proc/{pid}/root{glob}"
        found = NOT_FOR_EVER.ask("both", lambda: look.find([served, literal]))
        again = NOT_FOR_EVER.ask("both", lambda: look.find([served, literal]))
        assert not NOT_FOR_EVER.ask("links", lambda: look.switched(again.trails))
    assert found.found == again.found == {literal}
    assert caplog.text.count("no answer") == 1
