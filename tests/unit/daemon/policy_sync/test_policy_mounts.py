"""policy.d as a mount: its files are not deleted when it goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import PolicyErrors
from tests.fixtures.mounts import TMPFS, mounted
from tests.unit.daemon.policy_sync.test_keeper import GOOD, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
MORE = "version: 1\nprincipals: {more: [{uid: 7}]}\n"


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_an_unmount_of_policy_d_leaves_the_old_policy_in_force(tmp_path: Path, kind: str) -> None:
    world = World(tmp_path)
    (tmp_path / "other").mkdir()
    folder = world.settings.paths.policy_dir
    with mounted(folder, TMPFS if kind == "tmpfs" else ("--bind", tmp_path / "other")):
        (folder / "more.yaml").write_text(MORE)
        world.load(GOOD)
        (folder / "kept.yaml").write_text("version: 1\n")
        world.load(GOOD)
        (folder / "kept.yaml").unlink()
        world.load(GOOD)
        assert world.keeper.last_error == ""
    with pytest.raises(PolicyErrors, match="the folder is another one or gone"):
        world.keeper.reload()
    assert world.keeper.policy is not None
    assert "more" in world.keeper.policy.principals
