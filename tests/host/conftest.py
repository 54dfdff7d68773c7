"""These tests take over the machine: they run in the guest that `make test-vm` boots, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "licet.init=systemd" not in Path("/proc/cmdline").read_text():
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="needs the guest of make test-vm"))
