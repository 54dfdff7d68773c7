"""Tables in a terminal: no word is broken, nothing is cut, no line is longer than the terminal is wide."""

from __future__ import annotations

from collections.abc import Iterator

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


LONG = [(f"row-{number}", "x" * (number // output.BLOCK + 1)) for number in range(2 * output.BLOCK + 1)]


def test_a_long_table_has_its_names_above_each_block(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("WHAT", "AGE"), LONG, nothing="")
    lines = capsys.readouterr().out.splitlines()
    assert [number for number, line in enumerate(lines) if line.split() == ["WHAT", "AGE"]] == [0, 1001, 2002]
    assert len(lines) == len(LONG) + 3


def test_a_pipe_gets_them_once_and_columns_that_only_get_wider(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda file=None: False)
    rows = [("a" * (output.BLOCK - abs(number - output.BLOCK)), "b") for number in range(2 * output.BLOCK)]
    output.print_table(("WHAT", "AGE"), rows, nothing="")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["WHAT", "AGE"]
    assert [tuple(line.split()) for line in lines] == [tuple(filter(None, row)) for row in rows]
    assert {line.index("b") for line in lines[: output.BLOCK]} == {output.BLOCK + 1}
    assert {line.index("b") for line in lines[output.BLOCK :]} == {output.BLOCK + 2}


def test_rows_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[tuple[str, str]]:
        yield from LONG[: output.BLOCK + 1]
        assert "row-999" in capsys.readouterr().out
        yield ("last", "")

    output.print_table(("WHAT", "AGE"), rows(), nothing="")
    assert "last" in capsys.readouterr().out


@pytest.mark.parametrize("values", [[], [{"a": "b\nc", "d": [1, {}]}], [1, "two", None]])
def test_an_array_is_printed_like_a_list(capsys: pytest.CaptureFixture[str], values: list[object]) -> None:
    output.print_json(values)
    as_a_list = capsys.readouterr().out
    output.print_json_array(iter(values))
    assert capsys.readouterr().out == as_a_list


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
