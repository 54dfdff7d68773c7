"""Judges files as the daemon of this host would, without asking or disturbing it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agent.cli.time_here import clock_of
from agent.config import Paths
from agent.daemon.licensing.keeper import LicenseKeeper
from agent.daemon.licensing.key_ring import KeyRing
from agent.daemon.licensing.node import Node
from agent.daemon.licensing.store import KEYS, NODE, SERIALS, LicenseStore
from agent.daemon.licensing.time import LicenseTime
from agent.daemon.licensing.verifier import Verifier
from agent.license.clock import Moment
from agent.license.host_key import PUBLIC
from agent.observe.node_ids import read_node_ids

_STORED = "licenses"
"""Folder of the daemon's records, in paths.state."""
STRANGER = (
    "only root can read what this host knows: its own key and DMI's id, earlier serials and revocations; "
    "none of that is looked at"
)


@dataclass(frozen=True, slots=True)
class At:
    """A clock that stands."""

    now: datetime

    def moment(self) -> Moment:
        return Moment.of(self.now)


class _Node(Node):
    """Makes no key."""

    def read(self) -> None:
        if self._has_key():
            super().read()
        else:
            self.ids |= read_node_ids(self._proc).found

    def prove(self) -> None:
        """The private key is not copied: the daemon compares the two."""

    def _has_private_key(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Host:
    """Where this host has its keys, documents and records. `at`: judge as of this time; None: now, by license
    time."""

    paths: Paths
    keys: Path
    at: datetime | None = None
    require_signed: bool = False

    @property
    def is_known(self) -> bool:
        """False if this user cannot read the records."""
        try:
            next(self.paths.state.iterdir(), None)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def clock_of(self, moment: Moment) -> str:
        """The clock by which `keeper` judges; "" if it judges as of a given time."""
        return "" if self.at else clock_of(self.paths.state, moment)

    def has_documents(self, licenses: Path) -> bool:
        """True if there are documents in this folder, or copies of earlier ones."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                if any(path.suffix == ".json" for path in licenses.iterdir()):
                    return True
            except PermissionError:
                return True  # there may be some, and the keeper says that it cannot read them
        with contextlib.suppress(OSError):
            return any((self.paths.state / _STORED).glob("copy-*"))
        return False

    @contextlib.contextmanager
    def keeper(self, licenses: Path, *, with_copies: bool = False) -> Iterator[LicenseKeeper]:
        """A keeper of the documents in this folder, refreshed. It works on a copy of the daemon's records:
        the serials and revocations that count here, and the copies of files if asked for."""
        with tempfile.TemporaryDirectory(prefix="licet-") as folder:
            state = Path(folder)
            self._copy_records(state, with_copies)
            store = LicenseStore(state / _STORED)
            made = LicenseKeeper(
                licenses,
                KeyRing(self.keys, store),
                store,
                _Node(self.paths.proc, state, store),
                Verifier(),
                LicenseTime(self.paths.state) if self.at is None else At(self.at),
            )
            made.refresh()
            yield made

    def _copy_records(self, state: Path, with_copies: bool) -> None:
        wanted = [PUBLIC, f"{_STORED}/{SERIALS}", f"{_STORED}/{NODE}"]
        if self.keys == self.paths.keys:
            wanted.append(f"{_STORED}/{KEYS}")
        (state / _STORED).mkdir()
        with contextlib.suppress(OSError):
            names = [path.name for path in (self.paths.state / _STORED).iterdir()]
            kinds = ("list-", "copy-") if with_copies else ("list-",)
            wanted += [f"{_STORED}/{name}" for name in names if name.startswith(kinds)]
        for name in wanted:
            with contextlib.suppress(OSError):
                shutil.copyfile(self.paths.state / name, state / name)


@contextlib.contextmanager
def folder_of(files: Sequence[tuple[str, bytes]]) -> Iterator[Path]:
    """A folder with these contents under these names."""
    with tempfile.TemporaryDirectory(prefix="licet-") as folder:
        for name, content in files:
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)
