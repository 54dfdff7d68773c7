from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.license.vendor import Vendor, vendor_in


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vendor:
    return vendor_in(tmp_path / "vendor", monkeypatch, capsys)
