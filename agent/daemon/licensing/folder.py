"""The files of a folder that an operator fills: license documents, or pinned keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.system import files


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
        self._device: int | None = None
        """Device number of the folder when it last had files."""
        self.is_mount = False
        """True if the folder was a mount, as of the last look that found files."""

    def read(self, first: Collection[str] = ()) -> Listing:
        """Read every file that is wanted. `first`: names of files that others do not displace if they are too
        many. Raises nothing: each problem is in the listing."""
        try:
            names = sorted(entry.name for entry in self.path.iterdir() if self._is_wanted(entry.name))
            device, is_mount = self.path.stat().st_dev, _is_mount(self.path)
        except (FileNotFoundError, NotADirectoryError):
            if self._device is None and not self.path.is_symlink():
                return Listing()
            return Listing(problem="the folder is gone")
        except OSError as error:
            return Listing(problem=f"cannot be read: {error.strerror}")
        if not names and self._device not in (None, device):
            return Listing(problem="another file system is there, and it is empty")
        if names:
            self._device = device
            self.is_mount = is_mount
        ranked = sorted(names, key=lambda name: name not in first)
        found = {name: self._read(self.path / name) for name in sorted(ranked[: self._most_files])}
        return Listing(found, left_out=tuple(ranked[self._most_files :]))

    def expect_files(self, *, was_mount: bool) -> None:
        """Treat a missing folder as a problem, and an empty one that `was_mount` and is none any more: files
        of it were in force before this start."""
        self.is_mount = was_mount
        try:
            is_there = _is_mount(self.path) or not was_mount
            self._device = self.path.stat().st_dev if is_there else -1
        except OSError:
            self._device = -1

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


def _is_mount(path: Path) -> bool:
    """True if another file system than that of the folder above is there. Raises OSError."""
    real = path.resolve()
    return real.stat().st_dev != real.parent.stat().st_dev
