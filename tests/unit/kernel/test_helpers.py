"""A map update that fails is a loss: it is counted, or the line says why nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BPF = Path(__file__).resolve().parents[3] / "bpf"
_DROPPED = re.compile(r"^\s*(?:\w+\.(?:update|insert)|bpf_map_update_elem)\((.*)$")
"""A statement that begins with the call: nothing looks at what it returns."""


def dropped(code: str) -> list[str]:
    """Lines that drop the result, have no comment, and are not followed by a look at what is there now."""
    lines = code.splitlines()
    return [
        line.strip()
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if _DROPPED.match(line) and "/*" not in line and ".lookup(" not in after
    ]


@pytest.mark.parametrize(
    "file",
    sorted(file for file in BPF.rglob("*.[ch]") if BPF / "include" not in file.parents),
    ids=lambda file: file.name,
)
def test_an_update_is_looked_at_or_says_why_not(file: Path) -> None:
    assert dropped(file.read_text()) == []


def test_one_that_is_dropped_is_found() -> None:
    assert dropped("\tif (tuples.update(&key, &row))\n\t\tlose(LOSS_TUPLES);\n") == []
    assert dropped("\tcounts.insert(&key, &zero);\n\tcount = counts.lookup(&key);\n") == []
    assert dropped("\tnames.insert(&key, &row); /* told once more */\n") == []
    assert dropped("\ttuples.update(&key, &row);\n\treturn;\n") == ["tuples.update(&key, &row);"]
