"""The benchmark's own program is joined with those of bpf/, and changes with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.decide import judging


@pytest.mark.root
def test_decide_by_itself_compiles_and_licenses() -> None:
    consumer = Path("/opt/client")
    with judging() as judge:
        judge.install(10, 5432, consumer)
        assert judge.ns(5432, consumer)
