"""What outlives the daemon, in paths.state/licenses: the last verified documents, the newest revocation
lists, the content of the key files, serials and node ids."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.license.serials import Serials
from agent.system import files

log = logging.getLogger(__name__)
SERIALS, KEYS, NODE = "serials.json", "keys.json", "node.json"
_COPY, _LIST = "copy-", "list-"
_MOST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """The bytes of a document that verified, under these kids. `file`: the name of the file it was in."""

    file: str
    content: bytes
    kids: frozenset[str]


class LicenseStore:
    """Each record is a file of its own, written whole. A record that cannot be written is kept in memory and
    written later; nothing else depends on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unwritten: dict[str, object] = {}
        self.problem = ""
        """Why a record cannot be written or read; "" if all could."""
        self.copies: dict[str, Copy] = {}
        """By file name."""
        self.lists: dict[tuple[str, str], Copy] = {}
        """Revocation lists, by issuer and the kid that signed it."""
        for path in self._files():
            self._load(path)
        self.serials = self._serials()

    def put_copy(self, copy: Copy) -> None:
        if self.copies.get(copy.file) != copy:
            self.copies[copy.file] = copy
            self._store(_name(_COPY, copy.file), _record(copy))

    def drop_copy(self, file: str) -> None:
        if self.copies.pop(file, None):
            self._remove(_name(_COPY, file))

    def put_list(self, issuer: str, kid: str, copy: Copy) -> None:
        known = self.lists.get((issuer, kid))
        if known is None or known.content != copy.content:
            self.lists[issuer, kid] = copy
            self._store(_name(_LIST, issuer, kid), {"issuer": issuer, "kid": kid, **_record(copy)})

    def put_serials(self) -> None:
        self._store(SERIALS, self.serials.to_json())

    def keys(self) -> dict[str, str]:
        """Contents of key files, by name."""
        found = self._read(self._folder / KEYS) or {}
        return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}

    def put_keys(self, keys: Mapping[str, str]) -> None:
        self._store(KEYS, dict(keys))

    def node_ids(self) -> dict[str, str]:
        """Node ids as last read, by kind (mi, dm, hk)."""
        found = self._read(self._folder / NODE) or {}
        return {str(kind): str(one) for kind, one in found.items()} if isinstance(found, dict) else {}

    def put_node_ids(self, ids: Mapping[str, str]) -> None:
        self._store(NODE, dict(ids))

    def retry(self) -> None:
        """Write the records that could not be written before."""
        for name, record in list(self._unwritten.items()):
            self._store(name, record)

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.name.startswith((_COPY, _LIST)))
        except OSError:
            return []

    def _load(self, path: Path) -> None:
        stored = self._read(path)
        if stored is None:
            return
        try:
            copy = Copy(
                str(stored["file"]),
                base64.b64decode(stored["content"], validate=True),
                frozenset(str(kid) for kid in stored["kids"]),
            )
            if path.name == _name(_COPY, copy.file):
                self.copies[copy.file] = copy
            elif path.name == _name(_LIST, str(stored["issuer"]), str(stored["kid"])):
                self.lists[str(stored["issuer"]), str(stored["kid"])] = copy
        except (ValueError, TypeError, KeyError) as error:
            self._damaged(path, error)

    def _serials(self) -> Serials:
        path = self._folder / SERIALS
        stored = self._read(path)
        try:
            return Serials() if stored is None else Serials.from_json(stored)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._damaged(path, error)
            return Serials()

    def _read(self, path: Path) -> Any:
        """None: there is no such file, or it is damaged."""
        try:
            return files.read_json(path, _MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self._damaged(path, error)
            return None

    def _damaged(self, path: Path, error: Exception) -> None:
        """Move a damaged record away, so that it is not lost and not read again."""
        aside = path.with_name(f"{path.name}.bad")
        log.error("%s: damaged (%s); it is moved to %s, and the agent goes on without it", path, error, aside)
        with contextlib.suppress(OSError):
            path.replace(aside)

    def _store(self, name: str, record: object) -> None:
        path = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_text(path, json.dumps(record))
        except OSError as error:
            self._unwritten[name] = record
            self.problem = f"{path}: cannot be written: {error.strerror}"
            return
        self._unwritten.pop(name, None)
        if not self._unwritten:
            self.problem = ""

    def _remove(self, name: str) -> None:
        self._unwritten.pop(name, None)
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()


def _name(kind: str, *parts: str) -> str:
    """A file name for any text: a name in the folder may be as long as the file system allows."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{kind}{digest[:40]}.json"


def _record(copy: Copy) -> dict[str, Any]:
    content = base64.b64encode(copy.content).decode()
    return {"file": copy.file, "content": content, "kids": sorted(copy.kids)}
