"""Looking at a network namespace before the first connect() from there: when an address comes to one, or a
program starts in it."""

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
"""At one namespace: of one that is out of scope, or has no address yet, each program that starts is heard."""
REMEMBERED = 4096
RESTS = 4
"""So many times as long as a search for namespaces took, none follows: addresses that come and go without end
cost a fifth of a processor at most."""


@dataclass(slots=True, eq=False)
class NamespaceFinder:
    """In threads of its own, which enter them: neither a reload nor a look at the host is in its way."""

    namespaces: Namespaces
    keeper: PolicyKeeper
    _started: queue.SimpleQueue[tuple[int, int]] = field(default_factory=queue.SimpleQueue)
    """Process and cookie of its namespace."""
    _looks: dict[int, int] = field(default_factory=dict)
    """How many by cookie, in this second."""
    _second: float = 0.0

    def start(self) -> None:
        """Of what is announced in the calling thread's namespace."""
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
