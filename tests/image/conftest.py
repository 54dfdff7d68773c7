"""The image that `make image` builds, and what is in it. `make test-image` runs these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.lab import ROOT
from tests.image.oci import Unpacked, unpack

IMAGE = ROOT / "build" / "licet-image.tar"


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    folder: Path = tmp_path_factory.mktemp("image")
    return unpack(IMAGE, folder)
