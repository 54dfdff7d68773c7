"""Tables in a terminal: no word is broken, nothing is cut, no line is longer than the terminal is wide."""

from __future__ import annotations

import pytest

from agent.cli import output

COLUMNS = ("HOOK", "RUNG", "ATTACHED TO", "NOTE")
ROWS = [
    ("datagram_received", "cgroup-sock-addr-link", "/sys/fs/cgroup/unified/licet-test-2073", "-"),
    ("accept", "none", "host", "fexit: load licet_empty: Operation not permitted; kretprobe: no kprobes"),
]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda file=None: True)


@pytest.mark.parametrize("width", [60, 80, 100, 130, 200])
def test_no_word_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    output.print_table(COLUMNS, ROWS, nothing="")
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= width
    words = said.replace(",", "").split()
    for row in ROWS:
        assert not {word for cell in row for word in cell.split()} - set(words)


def test_cells_go_on_below_themselves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    output.print_table(("WHAT", "WHAT FOLLOWS"), [("unix sockets", "neither judged nor counted")], nothing="")
    assert capsys.readouterr().out.splitlines() == [
        "WHAT          WHAT FOLLOWS",
        "unix sockets  neither judged",
        "              nor counted",
    ]


def test_facts_go_on_below_their_beginning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    output.print_facts([("mode", "one two three four"), ("", "warning: /etc/x:3: five six")], indent=7)
    assert capsys.readouterr().out.splitlines() == [
        "mode   one two three",
        "       four",
        "       warning:",
        "       /etc/x:3: five",
        "       six",
    ]
