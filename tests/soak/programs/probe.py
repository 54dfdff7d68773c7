"""Asks the agent every second, and looks at it: PID LISTEN_PORT HEALTH_PORT CONTROL. A line for each second:

`asked` by name seconds and status (0: no answer), `rss_kb`, `late_s`: the longest that this process itself
was kept from a CPU meanwhile, `waited_s`: how long the agent's loop was, `cpu_s` that the agent took."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import threading
import time

from tests.soak.programs.pace import say, ticks

PATIENCE_S, BEAT_S = 30.0, 0.01
SCRAPED_EACH = 15


class Metronome(threading.Thread):
    """How late this process is, who asks for a CPU a hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.late_s = 0.0

    def run(self) -> None:
        while True:
            due_s = time.monotonic() + BEAT_S
            time.sleep(BEAT_S)
            self.late_s = max(self.late_s, time.monotonic() - due_s)


class Control(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("licet", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self._path)


def ask(connection: http.client.HTTPConnection, path: str) -> tuple[float, int]:
    """Seconds from the connection to the whole answer, and its status."""
    began_s, status = time.monotonic(), 0
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        status = response.status
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return round(time.monotonic() - began_s, 4), status


def waited_s(pid: str) -> float:
    """Of its main thread, for a CPU (proc_pid_schedstat: run delay is the second field)."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[1]) / 1e9


def cpu_s(pid: str) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: str) -> int:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return int(file.read().partition("VmRSS:")[2].split()[0])


def main() -> None:
    pid, port, health_port, control = sys.argv[1:]
    metronome = Metronome()
    metronome.start()

    def tcp(to: str) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", int(to), timeout=PATIENCE_S)

    seconds = 0
    for number in ticks(1):
        seconds += 1
        metronome.late_s, waited = 0.0, waited_s(pid)
        began_s = time.monotonic()
        asked = {
            "healthz": ask(tcp(port), "/healthz"),
            "readyz": ask(tcp(port), "/readyz"),
            "own port's healthz": ask(tcp(health_port), "/healthz"),
            "control's mode": ask(Control(control), "/v1/mode"),
        }
        if number % SCRAPED_EACH == 0:
            asked["metrics"] = ask(tcp(port), "/metrics")
            asked["control's status"] = ask(Control(control), "/v1/status")
        say(
            at_s=round(began_s, 3),
            asked=asked,
            rss_kb=rss_kb(pid),
            late_s=round(metronome.late_s, 4),
            waited_s=round(waited_s(pid) - waited, 4),
            cpu_s=cpu_s(pid),
        )
    say(made=seconds)


if __name__ == "__main__":
    main()
