"""The node ids of this host. One that cannot be read keeps its last value."""

from __future__ import annotations

from pathlib import Path

from agent.daemon.licensing.store import LicenseStore
from agent.license.host_key import KEY, PUBLIC, ensure_host_key
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

    def read(self) -> None:
        """Read all of them again. The host's key is made at the first start, and never a second time."""
        self.ids = {**self._store.node_ids, **self.ids}
        now = read_node_ids(self._proc)
        found, missing = dict(now.found), dict(now.missing)
        try:
            if self._may_have_had_key() and not self._has_key():
                raise FileNotFoundError(2, "the host's key is gone", str(self._state / KEY))
            found["hk"] = host_key_node(ensure_host_key(self._state))
        except OSError as error:
            missing["hk"] = f"{error.filename}: {error.strerror}"
        except (ValueError, NoVerdict) as error:
            missing["hk"] = str(error)
        ids = {**self.ids, **found}
        self.missing = missing
        if ids != self.ids:
            self.ids = ids
            self._store.put_node_ids(ids)

    def _may_have_had_key(self) -> bool:
        return "hk" in self.ids or self._store.is_node_unread

    def _has_key(self) -> bool:
        return any((self._state / name).exists() for name in (KEY, PUBLIC))
