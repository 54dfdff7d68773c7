"""Messages to the service manager, from start to stop, by the protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

FOREVER_S = 365 * 86400.0
_SEND_WITHIN_S = 1.0


class ServiceManager(ABC):
    """The service manager that started this process."""

    alive_every_s = FOREVER_S
    """The interval at which `alive` must be called."""

    def starting(self, within_s: float) -> None:
        """Extend the manager's start timeout: a start that compiles on a slow host takes longer. Ending it
        would only begin it anew."""
        self._send(f"EXTEND_TIMEOUT_USEC={within_s * 1e6:.0f}", "STATUS=loading its programs into the kernel")

    def ready(self, status: str) -> None:
        """Report that the policy is in force, at start and after a reload. `status`: one line for people."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        # the manager tells reloads apart by their time (systemd.service(5), notify-reload)
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self) -> None:
        """Report that the main loop runs. Without this, the manager's watchdog restarts the daemon."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=what is in the kernel goes on judging")

    @abstractmethod
    def _send(self, *fields: str) -> None: ...


class NoManager(ServiceManager):
    """The process was started without a service manager: messages go nowhere."""

    def _send(self, *fields: str) -> None:
        pass


class Manager(ServiceManager):
    """A manager that listens on a socket, with or without a watchdog."""

    def __init__(self, address: str, watchdog_s: float | None) -> None:
        """`address` as in NOTIFY_SOCKET: a path, or @name of an abstract socket."""
        self._address = b"\0" + os.fsencode(address[1:]) if address.startswith("@") else os.fsencode(address)
        if watchdog_s:
            self.alive_every_s = watchdog_s / 3  # two lost messages are no harm
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_SEND_WITHIN_S)

    def _send(self, *fields: str) -> None:
        try:
            self._socket.sendto("\n".join(fields).encode(), self._address)
        except OSError as error:
            log.warning("the service manager was not told %s: %s", fields[0], error)


def service_manager(environment: MutableMapping[str, str]) -> ServiceManager:
    """The manager that the environment names. Its variables are removed, so that no child process speaks for
    this one."""
    address = environment.pop("NOTIFY_SOCKET", "")
    watchdog_us = environment.pop("WATCHDOG_USEC", "")
    watched = environment.pop("WATCHDOG_PID", str(os.getpid()))
    if not address.startswith(("/", "@")):  # vsock is for virtual machines
        return NoManager()
    mine = watchdog_us.isdecimal() and watched == str(os.getpid())
    return Manager(address, int(watchdog_us) / 1e6 if mine else None)
