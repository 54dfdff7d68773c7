"""The node ids of this host. One that cannot be read keeps its last value."""

from __future__ import annotations

import os
from pathlib import Path

from agent.daemon.licensing.store import LicenseStore
from agent.license.host_key import KEY, PUBLIC, ensure_host_key, public_of_private
from agent.license.node import host_key_node
from agent.license.verification import NoVerdict
from agent.observe.node_ids import read_node_ids


class Node:
    def __init__(self, proc: Path, state: Path, store: LicenseStore) -> None:
        self._proc = proc
        self._state = state
        self._store = store
        self.ids: dict[str, str] = dict(store.node_ids)
        """By kind: mi, dm, hk."""
        self.missing: dict[str, str] = {}
        """By kind: why it cannot be read now."""
        self.problem = ""
        """Why the host's public key is not the one that is used; "" if it is."""
        self._proven: tuple[os.stat_result, str] | None = None
        """The private key's file, and the node id of that key."""

    def read(self) -> None:
        """Read all of them again. The host's key is made at the first start, and never a second time."""
        self.problem = ""
        self.ids = {**self._store.node_ids, **self.ids}
        now = read_node_ids(self._proc)
        found, missing = dict(now.found), dict(now.missing)
        try:
            if self._may_have_had_key() and not self._has_key():
                raise FileNotFoundError(2, "the host's key is gone", str(self._state / KEY))
            found["hk"] = self._proven_or(host_key_node(ensure_host_key(self._state)))
        except OSError as error:
            missing["hk"] = f"{error.filename}: {error.strerror}"
        except (ValueError, NoVerdict) as error:
            missing["hk"] = str(error)
        ids = {**self.ids, **found}
        self.missing = missing
        if ids != self.ids:
            self.ids = ids
            self._store.put_node_ids(ids)

    def prove(self) -> None:
        """Ask the child whether the public key is that of the private one: anybody's could be put there.

        The id of the private key is used then. It is asked once for each private key."""
        if "hk" not in self.ids or "hk" in self.missing or self._is_same_key():
            return
        try:
            about = (self._state / KEY).stat()
            self._proven = about, host_key_node(public_of_private(self._state))
        except ValueError as error:  # no reason to lock this host out
            self.problem = f"{error}; {PUBLIC} is used, which may be of another host"
            return
        except (OSError, NoVerdict):
            return  # the next look tries again
        self.read()

    def _proven_or(self, public: str) -> str:
        """The node id to use, if the public key has this one. Raises OSError."""
        key = self._state / KEY
        if not self._has_private_key():
            if public != self.ids.get("hk"):
                self.problem = f"{key}: it is gone, and {PUBLIC} alone may be of another host; restore it"
                raise FileNotFoundError(2, "the host's key is gone", str(key))
            return public
        if self._proven is None or not self._is_same_key() or self._proven[1] == public:
            return public
        wrong = self._state / PUBLIC
        self.problem = f"{wrong}: it is not of {KEY}, whose id is used; remove it, and it is made again"
        return self._proven[1]

    def _is_same_key(self) -> bool:
        """True if the private key was asked about, and was not written since."""
        if self._proven is None:
            return False
        try:
            now, before = (self._state / KEY).stat(), self._proven[0]
        except OSError:
            return False
        return (now.st_dev, now.st_ino, now.st_ctime_ns) == (before.st_dev, before.st_ino, before.st_ctime_ns)

    def _has_private_key(self) -> bool:
        return (self._state / KEY).exists()

    def _may_have_had_key(self) -> bool:
        return "hk" in self.ids or self._store.is_node_unread

    def _has_key(self) -> bool:
        return any((self._state / name).exists() for name in (KEY, PUBLIC))
