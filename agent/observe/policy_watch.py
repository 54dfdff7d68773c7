"""Tells when the policy's files change, however they are changed.

inotify only wakes us; whether something changed is judged by content, and by who else could write it. So a
touched file is no change, and it does not matter how an editor or a ConfigMap swaps files. Not seen: a
directory above those that hold the policy being renamed away, and changes made on another machine of a
network file system (inotify(7)). Without an inotify instance or watch, somebody has to ask now and then.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from inotify_simple import INotify, flags

from agent.policy.document.load import is_policy_file
from agent.system import files, ownership
from agent.system.closing import Closing

_EVENTS = (
    flags.CLOSE_WRITE  # not MODIFY: a half-written file is no policy
    | flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.ATTRIB
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)
_MAX_ROUNDS = 8


class PolicyWatch(Closing):
    """Watches `file` and the policy files of `directory`; neither has to be there. Wait until `fileno()` is
    readable, then ask `changed()`; while `problem` says something, ask every few seconds. Make it before the
    policy is first read, so that nothing is missed."""

    def __init__(self, file: Path, directory: Path) -> None:
        self._file = file.absolute()
        self._directory = directory.absolute()
        self.problem = ""
        """Why changes are not told of, though they are seen when asked for."""
        self._inotify = self._instance()
        self._watched: dict[Path, int] = {}
        """Watch descriptor by directory."""
        self._watch()
        self._seen = self._fingerprint()

    def close(self) -> None:
        if self._inotify:
            self._inotify.close()

    def fileno(self) -> int | None:
        """None: there is nothing to wait for (yet)."""
        return self._inotify.fileno() if self._inotify else None

    def changed(self) -> bool:
        """Is the policy's text other than at the last call? Never blocks, but reads the files."""
        self._inotify = self._inotify or self._instance()
        for event in self._inotify.read(timeout=0) if self._inotify else ():
            if event.mask & flags.IGNORED:
                self._forget(event.wd)
        self._watch()
        now = self._fingerprint()
        before, self._seen = self._seen, now
        return now != before

    def _instance(self) -> INotify | None:
        try:
            return INotify(nonblocking=True)
        except OSError as error:
            self.problem = _refused(error)
            return None

    def _forget(self, descriptor: int) -> None:
        self._watched = {path: known for path, known in self._watched.items() if known != descriptor}

    def _watch(self) -> None:
        """Watch what there is to watch now. A directory made meanwhile can already hold the next one,
        whose coming nobody announced: look until nothing is new."""
        if self._inotify is None:
            return
        self.problem = ""
        for _ in range(_MAX_ROUNDS):
            wanted = self._wanted()
            watched = {path: self._add(self._inotify, path) for path in wanted}
            present = {path: number for path, number in watched.items() if number is not None}
            for stale in set(self._watched.values()) - set(present.values()):
                self._remove(self._inotify, stale)
            self._watched = present
            if self.problem or (wanted == self._wanted() and len(present) == len(wanted)):
                return

    def _wanted(self) -> set[Path]:
        """The directories that hold file and directory, by name and where links lead, and the directory
        itself; for what is missing, the nearest directory above that is there."""
        places = {
            self._file.parent,
            Path(os.path.realpath(self._file)).parent,
            self._directory,
            self._directory.parent,
            Path(os.path.realpath(self._directory)).parent,
        }
        for path in self._files_of_directory():
            places.add(Path(os.path.realpath(path)).parent)
        return {_nearest_directory(place) for place in places}

    def _add(self, inotify: INotify, path: Path) -> int | None:
        try:
            return int(inotify.add_watch(path, _EVENTS))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                self.problem = _refused(error)
            return None

    def _remove(self, inotify: INotify, descriptor: int) -> None:
        try:
            inotify.rm_watch(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the kernel has dropped it with its directory
                raise

    def _files_of_directory(self) -> list[Path]:
        try:
            entries = sorted(self._directory.iterdir())
        except OSError:
            return []
        return [entry for entry in entries if is_policy_file(entry)]

    def _fingerprint(self) -> tuple[dict[Path, str], list[ownership.Doubt]]:
        """Digest of each file; of one that cannot be read, why. Who else could write them."""
        places = [self._file, *self._files_of_directory()]
        digests = {path: _digest(path) for path in places}
        return digests, ownership.doubts([self._directory, *places])


def _nearest_directory(path: Path) -> Path:
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(files.read_bytes(path)).hexdigest()
    except OSError as error:
        return str(error.strerror)


def _refused(error: OSError) -> str:
    return (
        f"the policy's files cannot be watched ({error.strerror}), and are compared every few seconds; raise "
        "fs.inotify.max_user_instances and fs.inotify.max_user_watches with sysctl"
    )
