from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.kernel.loading.child import refuse_lockdown


@pytest.mark.parametrize(
    "state", ["[none] integrity confidentiality\n", "none [integrity] confidentiality\n"]
)
def test_a_kernel_whose_memory_may_be_read_is_fine(tmp_path: Path, state: str) -> None:
    (tmp_path / "lockdown").write_text(state)
    refuse_lockdown(tmp_path / "lockdown")


def test_a_kernel_without_lockdown_is_fine(tmp_path: Path) -> None:
    refuse_lockdown(tmp_path / "lockdown")


def test_confidentiality_is_one_sentence_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "lockdown").write_text("none integrity [confidentiality]\n")
    with pytest.raises(KernelError, match=r"lockdown=confidentiality.*boot with lockdown=integrity"):
        refuse_lockdown(tmp_path / "lockdown")
