"""Each module, class with behavior and longer function says what a reader cannot see from its name.

A class or function that is alone in its file is described by the module's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONG = 12
"""Lines, from which on a function is no shorter to read than a sentence about it."""
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

FILES = sorted((ROOT / "agent").rglob("*.py"))


def undocumented(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        yield "the module"
    found = list(_public(tree.body))
    for each in found:
        if len(found) > 1 and _wants_a_text(each):
            yield each.name
        if isinstance(each, ast.ClassDef):
            yield from (f"{each.name}.{one.name}" for one in _public(each.body) if _wants_a_text(one))


def _public(body: list[ast.stmt]) -> Iterator[Definition]:
    return (each for each in body if isinstance(each, Definition) and not each.name.startswith("_"))


def _wants_a_text(each: Definition) -> bool:
    if ast.get_docstring(each):
        return False
    if isinstance(each, ast.ClassDef):
        return any(isinstance(one, Definition) and not one.decorator_list for one in each.body)
    return (each.end_lineno or each.lineno) - each.lineno >= LONG


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_a_name_does_not_say_is_said(file: Path) -> None:
    assert list(undocumented(file.read_text())) == []


def test_what_lacks_a_text_is_found() -> None:
    lines = "\n".join("    a = 1" for _ in range(LONG))
    assert list(undocumented(f"def short():\n    pass\n\ndef long():\n{lines}\n")) == ["the module", "long"]
    assert list(undocumented(f'"""It."""\ndef long():\n{lines}\n')) == []
    assert list(undocumented('"""It."""\nclass A:\n    def f(self): ...\nclass B:\n    x = 1\n')) == ["A"]
