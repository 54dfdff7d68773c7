"""The pages that people read, as texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted(
    {*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("tests/*/README.md")}
)
FOLDERS = ("agent", "bpf", "docs", "packaging", "tests", "vagrant")
_PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(text: str) -> Iterator[tuple[str, str]]:
    """(language, what stands in it) of each fence."""
    return ((found[1], found[2]) for found in _FENCE.finditer(text))


def blocks(text: str, language: str) -> Iterator[str]:
    """What stands in fences of that language."""
    return (block for one, block in fences(text) if one == language)


def paths_in(text: str) -> set[str]:
    """Files and folders of this repository that are named, but for those with a placeholder."""
    return {path for path in _PATH.findall(text) if not re.search(r"[A-Z]{3}|\.\.\.", path.split("/")[-1])}
