"""Pages lead where they say: links, files, tests, decisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.docs.pages import DOCS, PAGES, ROOT, blocks, name_of, paths_in

DECISIONS = sorted((DOCS / "decisions").glob("0*.md"))
TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    assert sorted(path for path in paths_in(text) if not (ROOT / path).exists()) == []
    assert sorted(name for name in re.findall(r"(?<![\w/])test_\w+\.py", text) if name not in TESTS) == []


def test_the_index_has_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    missing = [page.name for page in DOCS.glob("*.md") if page.name not in ("README.md",)]
    assert [name for name in missing if f"({name})" not in index] == []


def test_a_new_reader_is_done_with_the_first_page_soon() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_the_parts_that_each_has(page: Path) -> None:
    text = page.read_text()
    assert re.match(rf"# {int(page.name[:4])}\. [^\n]+\n", text)
    parts = re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert [title for title, _ in parts] == ["Status", "Context", "Decision", "Consequences"]
    assert all(body.strip() for _, body in parts)
    status = parts[0][1]
    assert status.startswith(("Accepted.", "Superseded", "Changed"))
    assert "Superseded" not in status or re.search(r"\(00\d\d-[\w-]+\.md\)", status)


def test_the_list_of_decisions_is_complete_and_has_their_titles() -> None:
    table = (DOCS / "decisions" / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \[(.*)\]\((.*)\) \|", table, re.MULTILINE)
    heads = [page.read_text().splitlines()[0].removeprefix("# ").partition(". ") for page in DECISIONS]
    files = [page.name for page in DECISIONS]
    assert rows == [(head[0], head[2], file) for head, file in zip(heads, files, strict=True)]


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\| ([^|]+?) \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)[2:]
    assert words == sorted(set(words), key=str.lower)


def test_every_fixture_is_in_its_page() -> None:
    folder = ROOT / "tests" / "fixtures"
    page = (folder / "README.md").read_text()
    files = {path.name for path in folder.iterdir() if path.suffix in (".py", ".c")} - {"__init__.py"}
    assert [name for name in files if name not in page] == []


def test_a_drawing_names_its_parts_once() -> None:
    (kernel, user) = blocks((DOCS / "architecture.md").read_text(), "mermaid")
    hooks = {path.name for path in (ROOT / "bpf" / "hooks").glob("*.c")}
    named = set(re.findall(r"[\w]+\.c\b", (DOCS / "architecture.md").read_text()))
    assert hooks - named == set()
    rooms = {path.parent.name for path in (ROOT / "agent" / "daemon").glob("*/__init__.py")}
    assert [room for room in sorted(rooms) if room not in user] == []
    assert "decide.h" in kernel
