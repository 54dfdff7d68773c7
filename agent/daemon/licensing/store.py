"""What outlives the daemon, in paths.state/licenses: the last verified documents, the newest revocation
lists, the content of the key files, serials and node ids."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.daemon.licensing.records import FOLDER, Records
from agent.license.envelope import read_envelope
from agent.license.payload import read_revocations
from agent.license.serials import Serials
from agent.license.values import Malformed

SERIALS, KEYS, NODE, MOUNTS = "serials.json", "keys.json", "node.json", "mounts.json"
_COPY, _LIST = "copy-", "list-"


@dataclass(frozen=True, slots=True)
class Copy:
    """The bytes of a document that verified, under these kids. `file`: the name of the file it was in."""

    file: str
    content: bytes
    kids: frozenset[str]


class LicenseStore:
    """The records of license documents. One that cannot be written is kept in memory and written later; one
    that cannot be read is read later, and joins what is known by then."""

    def __init__(self, folder: Path) -> None:
        self._records = Records(folder)
        self.copies: dict[str, Copy] = {}
        """By file name."""
        self.lists: dict[tuple[str, str], Copy] = {}
        """Revocation lists, by issuer and the kid that signed it."""
        self.serials = Serials()
        self.keys: dict[str, str] = {}
        """Contents of key files, by name."""
        self.node_ids: dict[str, str] = {}
        """Node ids as last read, by kind (mi, dm, hk)."""
        self._mounts: frozenset[str] = frozenset()
        self._waiting: list[str] | None = None
        """Names of records that are still to be read; None: they are not known."""
        self.load()

    @property
    def problem(self) -> str:
        """Why a record cannot be read or written; "" if all can."""
        return self._records.problem

    @property
    def unread(self) -> str:
        """Why a record that is there cannot be read; "" if all were."""
        return self._records.unread

    @property
    def is_node_unread(self) -> bool:
        """True if node ids may be stored that could not be read."""
        return self._records.is_unread(NODE)

    def load(self) -> None:
        """Read the records that could not be read before."""
        if self._waiting is None:
            try:
                stored = [name for name in self._records.names() if name.startswith((_COPY, _LIST))]
            except OSError:
                return
            self._waiting = [SERIALS, KEYS, NODE, MOUNTS, *stored]
            self._records.release(FOLDER)
        self._waiting = [name for name in self._waiting if not self._is_loaded(name)]

    def _is_loaded(self, name: str) -> bool:
        try:
            record = self._records.read(name)
        except OSError:
            return False
        if record is not None:
            with self._records.understanding(name):
                self._add(name, record)
        self._records.release(name)
        return True

    def put_copy(self, copy: Copy) -> None:
        if self.copies.get(copy.file) != copy:
            self.copies[copy.file] = copy
            self._records.write(_name(_COPY, copy.file), _record(copy))

    def drop_copy(self, file: str) -> None:
        if self.copies.pop(file, None):
            name = _name(_COPY, file)
            if self._waiting:
                self._waiting = [one for one in self._waiting if one != name]
            self._records.remove(name)

    def put_list(self, issuer: str, kid: str, copy: Copy) -> None:
        known = self.lists.get((issuer, kid))
        if known is None or known.content != copy.content:
            self.lists[issuer, kid] = copy
            self._records.write(_name(_LIST, issuer, kid), {"issuer": issuer, "kid": kid, **_record(copy)})

    def put_serials(self) -> None:
        self._records.write(SERIALS, self.serials.to_json())

    def put_keys(self, keys: Mapping[str, str]) -> None:
        self.keys = dict(keys)
        self._records.write(KEYS, self.keys)

    def put_node_ids(self, ids: Mapping[str, str]) -> None:
        self.node_ids = dict(ids)
        self._records.write(NODE, self.node_ids)

    def was_mount(self, folder: str) -> bool:
        """True if that folder, `licenses` or `keys`, was a mount when it last had files, or may have been."""
        return folder in self._mounts or self._records.is_unread(MOUNTS)

    def put_mount(self, folder: str, *, is_mount: bool) -> None:
        now = self._mounts | {folder} if is_mount else self._mounts - {folder}
        if now != self._mounts:
            self._mounts = now
            self._records.write(MOUNTS, sorted(now))

    def retry(self) -> None:
        """Write the records that could not be written before."""
        self._records.retry()

    def _add(self, name: str, record: Any) -> None:
        """What is known already is newer.

        Raises ValueError, TypeError, KeyError or AttributeError if the record is damaged."""
        is_late = self._records.is_unread(name)
        if name == SERIALS:
            self.serials.add(Serials.from_json(record))
            merged: object = self.serials.to_json()
        elif name == KEYS:
            self.keys = _texts(record) | self.keys
            merged = self.keys
        elif name == NODE:
            self.node_ids = _texts(record) | self.node_ids
            merged = self.node_ids
        elif name == MOUNTS:
            self._mounts |= {str(one) for one in record}
            merged = sorted(self._mounts)
        else:
            self._add_copy(name, record)
            return
        if is_late:
            self._records.write(name, merged)

    def _add_copy(self, name: str, record: Any) -> None:
        copy = Copy(
            str(record["file"]),
            base64.b64decode(record["content"], validate=True),
            frozenset(str(kid) for kid in record["kids"]),
        )
        if name == _name(_COPY, copy.file):
            self.copies.setdefault(copy.file, copy)
            return
        issuer, kid = str(record["issuer"]), str(record["kid"])
        if name == _name(_LIST, issuer, kid):
            known = self.lists.get((issuer, kid))
            if known is None or _serial(known) < _serial(copy):
                self.lists[issuer, kid] = copy
                self._records.forget(name)


def _serial(listed: Copy) -> int:
    """Of a revocation list. Raises ValueError."""
    try:
        return read_revocations(read_envelope(listed.content).payload).serial
    except Malformed as error:
        raise ValueError(str(error)) from error


def _texts(record: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in record.items()}


def _name(kind: str, *parts: str) -> str:
    """A file name for any text: a name in the folder may be as long as the file system allows."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{kind}{digest[:40]}.json"


def _record(copy: Copy) -> dict[str, Any]:
    content = base64.b64encode(copy.content).decode()
    return {"file": copy.file, "content": content, "kids": sorted(copy.kids)}
