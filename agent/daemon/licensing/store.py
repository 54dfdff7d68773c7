"""What outlives the daemon, in paths.state/licenses: the last verified documents, the newest revocation
lists, the content of the key files, serials and node ids."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.daemon.licensing.records import Records
from agent.license.serials import Serials

SERIALS, KEYS, NODE, MOUNTS = "serials.json", "keys.json", "node.json", "mounts.json"
_COPY, _LIST = "copy-", "list-"


@dataclass(frozen=True, slots=True)
class Copy:
    """The bytes of a document that verified, under these kids. `file`: the name of the file it was in."""

    file: str
    content: bytes
    kids: frozenset[str]


class LicenseStore:
    """The records of license documents. One that cannot be written is kept in memory and written later."""

    def __init__(self, folder: Path) -> None:
        self._records = Records(folder)
        self.copies: dict[str, Copy] = {}
        """By file name."""
        self.lists: dict[tuple[str, str], Copy] = {}
        """Revocation lists, by issuer and the kid that signed it."""
        for name in self._records.names():
            if name.startswith((_COPY, _LIST)):
                self._load(name)
        self.serials = self._serials()

    @property
    def problem(self) -> str:
        """Why a record cannot be written; "" if all could."""
        return self._records.problem

    def put_copy(self, copy: Copy) -> None:
        if self.copies.get(copy.file) != copy:
            self.copies[copy.file] = copy
            self._records.write(_name(_COPY, copy.file), _record(copy))

    def drop_copy(self, file: str) -> None:
        if self.copies.pop(file, None):
            self._records.remove(_name(_COPY, file))

    def put_list(self, issuer: str, kid: str, copy: Copy) -> None:
        known = self.lists.get((issuer, kid))
        if known is None or known.content != copy.content:
            self.lists[issuer, kid] = copy
            self._records.write(_name(_LIST, issuer, kid), {"issuer": issuer, "kid": kid, **_record(copy)})

    def put_serials(self) -> None:
        self._records.write(SERIALS, self.serials.to_json())

    def keys(self) -> dict[str, str]:
        """Contents of key files, by name."""
        found = self._records.read(KEYS) or {}
        return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}

    def put_keys(self, keys: Mapping[str, str]) -> None:
        self._records.write(KEYS, dict(keys))

    def node_ids(self) -> dict[str, str]:
        """Node ids as last read, by kind (mi, dm, hk)."""
        found = self._records.read(NODE) or {}
        return {str(kind): str(one) for kind, one in found.items()} if isinstance(found, dict) else {}

    def put_node_ids(self, ids: Mapping[str, str]) -> None:
        self._records.write(NODE, dict(ids))

    def was_mount(self, folder: str) -> bool:
        """True if that folder, `licenses` or `keys`, was a mount when it last had files."""
        return folder in self._mounts()

    def put_mount(self, folder: str, *, is_mount: bool) -> None:
        before = self._mounts()
        now = before | {folder} if is_mount else before - {folder}
        if now != before:
            self._records.write(MOUNTS, sorted(now))

    def _mounts(self) -> frozenset[str]:
        found = self._records.read(MOUNTS)
        return frozenset(str(one) for one in found) if isinstance(found, list) else frozenset()

    def retry(self) -> None:
        """Write the records that could not be written before."""
        self._records.retry()

    def _load(self, name: str) -> None:
        stored = self._records.read(name)
        if stored is None:
            return
        with self._records.understanding(name):
            copy = Copy(
                str(stored["file"]),
                base64.b64decode(stored["content"], validate=True),
                frozenset(str(kid) for kid in stored["kids"]),
            )
            if name == _name(_COPY, copy.file):
                self.copies[copy.file] = copy
            elif name == _name(_LIST, str(stored["issuer"]), str(stored["kid"])):
                self.lists[str(stored["issuer"]), str(stored["kid"])] = copy

    def _serials(self) -> Serials:
        stored = self._records.read(SERIALS)
        if stored is not None:
            with self._records.understanding(SERIALS):
                return Serials.from_json(stored)
        return Serials()


def _name(kind: str, *parts: str) -> str:
    """A file name for any text: a name in the folder may be as long as the file system allows."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{kind}{digest[:40]}.json"


def _record(copy: Copy) -> dict[str, Any]:
    content = base64.b64encode(copy.content).decode()
    return {"file": copy.file, "content": content, "kids": sorted(copy.kids)}
