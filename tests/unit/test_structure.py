"""How large a file, a class and a constructor may be: what outgrows that has become two things."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE, CLASS, CONSTRUCTOR = 300, 200, 40
CONTRACTS = {"agent/abi.py", "agent/model.py", "bpf/abi.h"}
"""Each is one contract, which is read as a whole."""
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for folder, kind in (("agent", "*.py"), ("bpf", "*.c"), ("bpf", "*.h"))
    for path in (ROOT / folder).rglob(kind)
)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def classes(name: str) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(ast.parse(text(name))) if isinstance(node, ast.ClassDef))


def lines(node: ast.ClassDef | ast.FunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_no_file_is_too_large() -> None:
    large = {name for name in SOURCES if text(name).count("\n") > FILE}
    assert large - CONTRACTS == set(), f"over {FILE} lines: split by responsibility"


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith(".py")])
def test_no_class_and_no_constructor_is_too_large(name: str) -> None:
    for each in classes(name):
        assert lines(each) <= CLASS, f"{each.name}: over {CLASS} lines"
        for method in each.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                assert lines(method) <= CONSTRUCTOR, (
                    f"{each.name}: its constructor is over {CONSTRUCTOR} lines"
                )
