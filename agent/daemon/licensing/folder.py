"""The files of a folder that an operator fills: license documents, or pinned keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.system import files
from agent.system.mount_ids import is_mount, mount_id


@dataclass(frozen=True, slots=True)
class Read:
    """One file: its content, or why it cannot be read."""

    content: bytes = b""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What is in the folder. `problem`: why the folder itself cannot be read; nothing is then known to be
    gone."""

    files: Mapping[str, Read] = field(default_factory=dict)
    """By name, in name order."""
    problem: str = ""
    """What is wrong with the folder itself, without its path; "" if it was read."""
    left_out: tuple[str, ...] = ()
    """Names of files beyond the limit."""


BRING_BACK = "bring the folder back, with its files"


class Folder:
    """Reads a folder whole. A folder that vanished, as with a missing mount, is a problem and not an empty
    folder."""

    def __init__(self, path: Path, suffixes: tuple[str, ...], most_files: int, most_bytes: int) -> None:
        self.path = path
        self._suffixes = suffixes
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._mount: int | None = None
        """Id of the mount that the folder was on when it last had files."""
        self.is_mount = False
        """True if the folder was a mount, as of the last look that found files."""

    @property
    def had_files(self) -> bool:
        """True if files were there at an earlier look, or are expected."""
        return self._mount is not None

    def read(self, first: Collection[str] = ()) -> Listing:
        """Read every file that is wanted. `first`: names of files that others do not displace if they are too
        many. Raises nothing: each problem is in the listing."""
        try:
            names = sorted(entry.name for entry in self.path.iterdir() if self._is_wanted(entry.name))
            mount, is_own = mount_id(self.path), is_mount(self.path)
        except (FileNotFoundError, NotADirectoryError):
            if self._mount is None and not self.path.is_symlink():
                return Listing()
            return Listing(problem="the folder is gone")
        except OSError as error:
            return Listing(problem=f"cannot be read: {error.strerror}")
        if not names and self._mount not in (None, mount):
            return Listing(problem="another file system is there, and it is empty")
        if names:
            self._mount = mount
            self.is_mount = is_own
        ranked = sorted(names, key=lambda name: name not in first)
        found = {name: self._read(self.path / name) for name in sorted(ranked[: self._most_files])}
        return Listing(found, left_out=tuple(ranked[self._most_files :]))

    def expect_files(self, *, was_mount: bool) -> None:
        """Treat a missing folder as a problem, and an empty one that `was_mount` and is none any more: files
        of it were in force before this start."""
        self.is_mount = was_mount
        try:
            is_there = is_mount(self.path) or not was_mount
            self._mount = mount_id(self.path) if is_there else -1
        except OSError:
            self._mount = -1

    def _is_wanted(self, name: str) -> bool:
        return name.endswith(self._suffixes) and not name.startswith(".")

    def _read(self, path: Path) -> Read:
        try:
            content = files.read_bytes(path, self._most_bytes + 1)
        except OSError as error:
            return Read(problem=f"cannot be read: {error.strerror}")
        if len(content) > self._most_bytes:
            return Read(problem=f"larger than {self._most_bytes >> 10} KiB")
        return Read(content)
