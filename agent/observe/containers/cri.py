"""Kubernetes' container runtime interface (k8s.io/cri-api, runtime.v1). It is queried if a runtime's state
on disk does not identify a container. h2 is imported at the first call, so hosts without a socket pay
nothing."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from agent.model import Container
from agent.observe.containers.wire import Message, field

AUTO, NEVER = "auto", "never"
SOCKETS = (
    Path("/run/containerd/containerd.sock"),
    Path("/run/k3s/containerd/containerd.sock"),  # also RKE2's
    Path("/run/k0s/containerd.sock"),
    Path("/var/snap/microk8s/common/run/containerd.sock"),
    Path("/run/crio/crio.sock"),
    Path("/run/cri-dockerd.sock"),
)
TIMEOUT_S = 0.3
PAUSE_S = 10.0
"""The pause after a call without an answer, so that a runtime that hangs costs little."""
POD, NAMESPACE = "io.kubernetes.pod.name", "io.kubernetes.pod.namespace"
"""Labels that kubelet gives to containers."""
_SERVICE = "/runtime.v1.RuntimeService"
_NUMBER = re.compile(r"[0-9a-f]{64}")


class Cri:
    """`choice`: auto (the first of SOCKETS that is there), a socket's path, or never."""

    def __init__(self, choice: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._choice = choice
        self._clock = clock
        self._again_s = 0.0
        self._error = ""
        self._runtime = ""
        """The runtime's name and version, once it has answered."""

    def read(self, number: str) -> Container | None:
        """The container or pod sandbox with this id; None if there is none, or if the runtime does not
        answer."""
        if not _NUMBER.fullmatch(number):
            return None
        if status := self._status("ContainerStatus", number):
            labels, image = status.strings(12), status.message(8)
            name = status.message(2).text(1)
            return self._container(number, labels, name, image.text(18) or image.text(1))
        if status := self._status("PodSandboxStatus", number):
            metadata = status.message(2)
            pod = {POD: metadata.text(1), NAMESPACE: metadata.text(3)}
            return self._container(number, pod, "", "")
        return None

    def about(self) -> dict[str, str]:
        """For `licet status`: the socket ("" if there is none), the runtime that answers there, and the
        last error."""
        socket = self._socket()
        if socket is None:
            return {"socket": "", "runtime": "", "error": ""}
        if not self._runtime:
            self._ask_version()
        return {"socket": str(socket), "runtime": self._runtime, "error": self._error}

    def _container(self, number: str, labels: dict[str, str], name: str, image: str) -> Container:
        if not self._runtime:
            self._ask_version()
        return Container(
            id=number,
            runtime=self._runtime.partition(" ")[0],
            name=name,
            image=image,
            pod=labels.get(POD, ""),
            namespace=labels.get(NAMESPACE, ""),
            known=True,
        )

    def _ask_version(self) -> None:
        if answer := self._call("Version", b""):
            self._runtime = f"{answer.text(2)} {answer.text(3)}"

    def _status(self, method: str, number: str) -> Message | None:
        answer = self._call(method, field(1, number))
        return answer.message(1) if answer else None

    def _call(self, method: str, request: bytes) -> Message | None:
        """One CRI call. None if the runtime does not know the id, or does not answer."""
        socket = self._socket()
        if socket is None or self._clock() < self._again_s:
            return None
        from agent.observe.containers import grpc  # 1.4 MB

        try:
            answer = Message(grpc.call(socket, f"{_SERVICE}/{method}", request, TIMEOUT_S))
        except grpc.CallFailed as error:
            if error.code != grpc.NOT_FOUND:  # e.g. a containerd whose CRI plugin is disabled
                self._failed(f"{method}: {error}")
            return None
        except (OSError, ValueError) as error:
            self._failed(f"{method}: {error or type(error).__name__}")
            return None
        self._error = ""
        return answer

    def _failed(self, why: str) -> None:
        self._error, self._runtime = why, ""
        self._again_s = self._clock() + PAUSE_S

    def _socket(self) -> Path | None:
        if self._choice == NEVER:
            return None
        places = SOCKETS if self._choice == AUTO else (Path(self._choice),)
        return next((path for path in places if _is_socket(path)), None)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
