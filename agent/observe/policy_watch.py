"""Detects changes of the policy's files, license documents and keys, however they are made.

inotify only wakes the daemon. A change is judged by content, and by which users could write the files. So
touching a file is no change, and the method by which an editor or a ConfigMap swaps files does not matter.
inotify reports no mount, and no rename of a directory above. `is_elsewhere()` finds both by comparing what
is at each path. Changes on another machine of a network file system go unseen (inotify(7)). Without an
inotify instance or watch, the caller has to poll.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from inotify_simple import INotify, flags

from agent.system import files, ownership
from agent.system.closing import Closing
from agent.system.mount_ids import mount_or_none

_EVENTS = (
    flags.CLOSE_WRITE  # not MODIFY: a half-written file is not a policy yet
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
Identity = tuple[int, int] | None
"""Device and inode of a directory or file; None if there is none."""
MOST_BYTES = 4 << 20
"""Of a file, to tell whether it has changed. A longer one has also changed if its size or time has."""
SUFFIXES = (".yaml", ".yml", ".json")
"""Of policy files and keys, and of license documents."""


class PolicyWatch(Closing):
    """Watches `file` and the files of `directories` with one of SUFFIXES; all may be missing.

    Wait until `fileno()` is readable, then call `changed()`. Every few seconds, also call it while `problem`
    is not empty or `is_elsewhere()` is true. Create the watch before the policy is first read, so that no
    change is missed."""

    def __init__(self, file: Path, *directories: Path) -> None:
        self._file = file.absolute()
        self._directories = [directory.absolute() for directory in directories]
        self.problem = ""
        """Why inotify does not report changes; `changed()` still detects them."""
        self._inotify = self._instance()
        self._watched: dict[Path, int] = {}
        """Watch descriptor by directory."""
        self._places: dict[Path, Identity] = {}
        """What was at each path when it was last watched."""
        self._watch()
        self._seen = self._fingerprint()

    def close(self) -> None:
        if self._inotify:
            self._inotify.close()

    def fileno(self) -> int | None:
        """The descriptor to wait on; None: there is none (yet)."""
        return self._inotify.fileno() if self._inotify else None

    def changed(self) -> bool:
        """True if the policy's text has changed since the last call. Never waits for an event, but reads
        the files."""
        self._inotify = self._inotify or self._instance()
        for event in self._inotify.read(timeout=0) if self._inotify else ():
            if event.mask & flags.IGNORED:
                self._forget(event.wd)
        self._watch()
        now = self._fingerprint()
        before, self._seen = self._seen, now
        return now != before

    def is_elsewhere(self) -> bool:
        """True if something else is at a watched path than at the last look, as after a mount. It may
        block on a network file system, so another thread may call it."""
        return any(_identity(path) != before for path, before in self._places.items())

    def _instance(self) -> INotify | None:
        try:
            return INotify(nonblocking=True)
        except OSError as error:
            self.problem = _refused(error)
            return None

    def _forget(self, descriptor: int) -> None:
        self._watched = {path: known for path, known in self._watched.items() if known != descriptor}

    def _watch(self) -> None:
        """Watch every directory that exists now. A directory that was just made may already contain the
        next one, which inotify did not report. So repeat until nothing is new."""
        if self._inotify is None:
            return
        self.problem = ""
        for _ in range(_MAX_ROUNDS):
            wanted = self._wanted()
            # before the watches: what is mounted between the two is found by the next is_elsewhere()
            places = (*wanted, self._file, *self._files_of_directories())
            self._places = {path: _identity(path) for path in places}
            watched = {path: self._add(self._inotify, path) for path in wanted}
            present = {path: number for path, number in watched.items() if number is not None}
            for stale in set(self._watched.values()) - set(present.values()):
                self._remove(self._inotify, stale)
            self._watched = present
            if self.problem or (wanted == self._wanted() and len(present) == len(wanted)):
                return

    def _wanted(self) -> set[Path]:
        """The directories to watch: those that hold the file and the directories, by name and by real path,
        and the directories themselves. A missing one is replaced by its nearest existing parent."""
        places = {self._file.parent, Path(os.path.realpath(self._file)).parent}
        for directory in self._directories:
            places |= {directory, directory.parent, Path(os.path.realpath(directory)).parent}
        for path in self._files_of_directories():
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
            if error.errno != errno.EINVAL:  # the kernel removed the watch together with its directory
                raise

    def _files_of_directories(self) -> list[Path]:
        return [path for directory in self._directories for path in _files_of(directory)]

    def _fingerprint(self) -> tuple[dict[Path, str], list[ownership.Doubt], list[int | None]]:
        """Digest of each file, or the error if it cannot be read; the users that could write the files; and
        the mount of each directory, as files that vanish with a mount are not deleted."""
        places = [self._file, *self._files_of_directories()]
        digests = {path: _digest(path) for path in places}
        on = [mount_or_none(directory) for directory in self._directories]
        return digests, ownership.doubts([*self._directories, *places]), on


def _files_of(directory: Path) -> list[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if entry.suffix in SUFFIXES and not entry.name.startswith(".")]


def _identity(path: Path) -> Identity:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _nearest_directory(path: Path) -> Path:
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _digest(path: Path) -> str:
    try:
        content = files.read_bytes(path, MOST_BYTES + 1)
        digest = hashlib.sha256(content).hexdigest()
        if len(content) <= MOST_BYTES:
            return digest
        about = path.stat()  # whatever else it holds, reading on could take all memory
        return f"{digest} {about.st_size} {about.st_mtime_ns}"
    except OSError as error:
        return str(error.strerror)


def _refused(error: OSError) -> str:
    return (
        f"the policy's files cannot be watched ({error.strerror}) and are polled every few seconds; raise "
        "fs.inotify.max_user_instances and fs.inotify.max_user_watches with sysctl"
    )
