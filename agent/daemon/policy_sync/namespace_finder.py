"""Looks at a network namespace before its first connect(): when an address is added, or a program starts in
it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.daemon.policy_sync.exec_watch import depends_on_addresses
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.errors import KernelError
from agent.failures import failures_told
from agent.model import Namespace
from agent.observe.addresses_elsewhere import AddressesElsewhere
from agent.observe.netns import Namespaces

log = logging.getLogger(__name__)
LOOKS_A_SECOND = 20
"""Limit for looks at one namespace. A namespace that is out of scope or has no address yet emits an event for
each program start."""
REMEMBERED = 4096
RESTS = 4
"""Pause after a search for namespaces, as a multiple of its duration. Addresses that come and go without end
then cost at most a fifth of a processor."""


@dataclass(slots=True, eq=False)
class NamespaceFinder:
    """Runs in its own threads, which enter the namespaces, so neither a reload nor a look at the host blocks
    it."""

    namespaces: Namespaces
    keeper: PolicyKeeper
    _started: queue.SimpleQueue[tuple[int, int]] = field(default_factory=queue.SimpleQueue)
    """(pid, cookie of its namespace) of each program start."""
    _looks: dict[int, int] = field(default_factory=dict)
    """Looks at each namespace in this second, by cookie."""
    _second: float = 0.0

    def start(self) -> None:
        """Start the threads. Addresses are announced by the calling thread's namespace."""
        _forever(self._look_at_next, "licet-starts")
        try:
            addresses = AddressesElsewhere()
        except KernelError as error:
            log.warning("%s; a network namespace is known once a program starts there", error)
            return
        _forever(lambda: self._search(addresses), "licet-addresses")

    def program_started(self, pid: int, netns: int) -> None:
        if self._is_due(netns):
            self._started.put((pid, netns))

    def _is_due(self, netns: int) -> bool:
        now_s = time.monotonic()
        if now_s - self._second > 1 or len(self._looks) >= REMEMBERED:
            self._second = now_s
            self._looks.clear()
        self._looks[netns] = self._looks.get(netns, 0) + 1
        return self._looks[netns] <= LOOKS_A_SECOND

    def _look_at_next(self) -> None:
        pid, netns = self._started.get()
        namespace = self.namespaces.enter(pid)
        if namespace is not None and namespace.cookie == netns:
            _note(namespace, "a program has started there")
            self.keeper.namespace_seen(namespace)

    def _search(self, addresses: AddressesElsewhere) -> None:
        numbers = addresses.wait()
        if not depends_on_addresses(self.keeper.compiled):
            return
        began_s = time.monotonic()
        for namespace in self.namespaces.enter_each(lambda one: addresses.number_of(one) in numbers):
            _note(namespace, "an address has come")
            self.keeper.namespace_seen(namespace)
        time.sleep(RESTS * (time.monotonic() - began_s))


def _note(namespace: Namespace, why: str) -> None:
    log.debug("namespace %d: %s: %s", namespace.cookie, why, ", ".join(map(str, namespace.addresses)))


def _forever(work: Callable[[], None], name: str) -> None:
    def run() -> None:
        while True:
            with failures_told():
                work()

    threading.Thread(target=run, name=name, daemon=True).start()
