"""The policy's files, compared with the files of the policy that was last in force."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from agent.config import Paths
from agent.errors import PolicyError, PolicyErrors
from agent.policy.document.load import Loaded, Source, load_in_place
from agent.state_files import State
from agent.system.mount_ids import mount_or_none


class PolicyFiles:
    def __init__(self, paths: Paths, state: State) -> None:
        self._paths = paths
        self._state = state
        self._last: Sequence[str] = ()
        """Files of the policy in force, or of the last good one."""
        self._mount: int | None = None
        """Id of the mount that policy.d was on when it was last read."""

    def kept(self) -> tuple[Source, ...]:
        """Sources of the last good policy, which counts as in force from now on; () if none is stored."""
        kept = self._state.kept_policy()
        self._last = tuple(source.file for source in kept)
        self._mount = mount_or_none(self._paths.policy_dir)
        return kept

    def read(self, now: datetime) -> Loaded | None:
        """Read the files; None if there are none. `now`: license time.

        Raises PolicyErrors, also if earlier files vanished as with a missing mount."""
        loaded = load_in_place(self._paths.policy, self._paths.policy_dir, now)
        self._refuse_vanished(loaded.policy.files if loaded else ())
        return loaded

    def in_force(self, sources: tuple[Source, ...]) -> None:
        """Store `sources` as the last good policy."""
        if sources:
            self._last = tuple(source.file for source in sources)
            self._mount = mount_or_none(self._paths.policy_dir)
            self._state.keep_policy(sources)

    def _refuse_vanished(self, files: Sequence[str]) -> None:
        """Raise PolicyErrors if files vanished: a missing mount must not take services out of force. A file
        of policy.d may be deleted as long as policy.d stays."""
        main, folder = self._paths.policy, self._paths.policy_dir
        if self._last and not files:
            gone, reason = main, f"the policy is gone, and nothing is in {folder}"
        elif str(main) in self._last and str(main) not in files:
            gone, reason = main, "the main file of the policy is gone"
        elif missing := [file for file in self._last if file not in files and Path(file).parent == folder]:
            if self._mount == mount_or_none(folder):
                return
            gone, reason = folder, f"the folder is another one or gone, and {missing[0]} with it"
        else:
            return
        remedy = "the policy loaded before stays in force; to run without one, write `version: 1` there"
        error = PolicyError(path=str(gone), line=None, reason=reason, remedy=remedy)
        raise PolicyErrors([error], is_unread=True)
