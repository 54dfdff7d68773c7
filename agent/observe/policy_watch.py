"""Tells when the policy's files change, however they are changed.

inotify only wakes us; whether something changed is judged by content. So a touched file is no change, and it
does not matter how an editor or a ConfigMap swaps files. Not seen: a directory above those that hold the
policy being renamed away, and changes made on another machine of a network file system (inotify(7)).
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from types import TracebackType

from inotify_simple import INotify, flags

from agent.errors import KernelError

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


class PolicyWatch:
    """Watches `file` and the *.yaml of `directory`; neither has to be there. Wait until `fileno()` is
    readable, then ask `changed()`. Make it before the policy is first read, so that nothing is missed.

    Raises KernelError where the kernel allows no more inotify instances or watches."""

    def __init__(self, file: Path, directory: Path) -> None:
        self._file = file.absolute()
        self._directory = directory.absolute()
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            raise _refused(error) from error
        self._watched: dict[Path, int] = {}
        """Watch descriptor by directory."""
        try:
            self._watch()
        except BaseException:
            self.close()
            raise
        self._seen = self._fingerprint()

    def __enter__(self) -> PolicyWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._inotify.close()

    def fileno(self) -> int:
        descriptor: int = self._inotify.fileno()
        return descriptor

    def changed(self) -> bool:
        """Is the policy's text other than at the last call? Never blocks, but reads the files."""
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.IGNORED:
                self._forget(event.wd)
        self._watch()
        now = self._fingerprint()
        before, self._seen = self._seen, now
        return now != before

    def _forget(self, descriptor: int) -> None:
        self._watched = {path: known for path, known in self._watched.items() if known != descriptor}

    def _watch(self) -> None:
        """Watch what there is to watch now. A directory made meanwhile can already hold the next one,
        whose coming nobody announced: look until nothing is new."""
        for _ in range(_MAX_ROUNDS):
            wanted = self._wanted()
            watched = {path: self._add(path) for path in wanted}
            present = {path: number for path, number in watched.items() if number is not None}
            for stale in set(self._watched.values()) - set(present.values()):
                self._remove(stale)
            self._watched = present
            if wanted == self._wanted() and len(present) == len(wanted):
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

    def _add(self, path: Path) -> int | None:
        try:
            return int(self._inotify.add_watch(path, _EVENTS))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                return None
            raise _refused(error) from error

    def _remove(self, descriptor: int) -> None:
        try:
            self._inotify.rm_watch(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the kernel has dropped it with its directory
                raise

    def _files_of_directory(self) -> list[Path]:
        try:
            entries = sorted(self._directory.iterdir())
        except OSError:
            return []
        return [entry for entry in entries if entry.suffix == ".yaml" and entry.name[0] != "."]

    def _fingerprint(self) -> dict[Path, str]:
        """Digest of each file; of one that cannot be read, why."""
        return {path: _digest(path) for path in [self._file, *self._files_of_directory()]}


def _nearest_directory(path: Path) -> Path:
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return str(error.strerror)


def _refused(error: OSError) -> KernelError:
    return KernelError(
        f"the policy's files cannot be watched: {error.strerror}; raise fs.inotify.max_user_instances and "
        "fs.inotify.max_user_watches with sysctl"
    )
