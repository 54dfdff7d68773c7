"""Names over Kubernetes' container runtime interface, from runtimes that behave and others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.model import Container
from agent.observe.containers.cri import PAUSE_S, Cri
from agent.observe.containers.grpc import MAX_BYTES
from agent.observe.containers.wire import Message, field
from tests.fixtures.cri.recorded import CONTAINER, CONTAINERD, SANDBOX, crio
from tests.fixtures.cri.server import Runtime

UNKNOWN = "f" * 64


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cri.sock"


def test_containerd_says_who_a_container_is(path: Path) -> None:
    with Runtime(path, CONTAINERD):
        cri = Cri(str(path))
        found = cri.read(CONTAINER)
        about = cri.about()
    assert found == Container(
        id=CONTAINER,
        runtime="containerd",
        name="server",
        image="registry.example/shop/cart:3",
        pod="cart-0",
        namespace="shop",
        known=True,
    )
    assert about == {"socket": str(path), "runtime": "containerd 1.6.20~ds1", "error": ""}


def test_a_pods_own_container_has_no_name_but_its_pods(path: Path) -> None:
    with Runtime(path, CONTAINERD):
        found = Cri(str(path)).read(SANDBOX)
    assert found is not None
    assert (found.name, found.pod, found.namespace) == ("", "cart-0", "shop")


def test_cri_o_speaks_the_same(path: Path) -> None:
    with Runtime(path, crio(UNKNOWN, "db", "orders-0", "acme", "quay.example/db:1")):
        found = Cri(str(path)).read(UNKNOWN)
    assert found == Container(UNKNOWN, "cri-o", "db", "quay.example/db:1", "orders-0", "acme", known=True)


def test_an_unknown_container_is_no_failure(path: Path) -> None:
    with Runtime(path, CONTAINERD) as runtime:
        cri = Cri(str(path))
        assert cri.read(UNKNOWN) is None
        assert cri.about()["error"] == ""
        assert cri.read(CONTAINER)
        assert runtime.calls[:2] == ["ContainerStatus", "PodSandboxStatus"]


def test_what_is_no_id_of_a_runtime_is_not_asked_for(path: Path) -> None:
    with Runtime(path, CONTAINERD) as runtime:
        assert Cri(str(path)).read("web-1") is None
        assert runtime.calls == []


def test_a_runtime_that_hangs_is_left_alone_for_a_while(path: Path) -> None:
    clock = Clock()
    cri = Cri(str(path), clock)
    with Runtime(path, {}, says=b"") as runtime:
        assert cri.read(CONTAINER) is None
        assert "timed out" in cri.about()["error"]
        assert runtime.clients == 1
    with Runtime(path, CONTAINERD) as runtime:
        assert cri.read(CONTAINER) is None
        assert runtime.calls == []
        clock.now += PAUSE_S
        assert cri.read(CONTAINER)
        assert cri.about()["error"] == ""


def test_a_socket_that_goes_and_comes_back(path: Path) -> None:
    clock = Clock()
    cri = Cri(str(path), clock)
    assert cri.read(CONTAINER) is None
    assert cri.about() == {"socket": "", "runtime": "", "error": ""}
    for _ in range(2):
        with Runtime(path, CONTAINERD):
            assert cri.read(CONTAINER)
        assert cri.read(CONTAINER) is None


def test_a_socket_where_nobody_listens_is_said(path: Path) -> None:
    with Runtime(path, CONTAINERD):
        path.rename(path.with_name("kept"))
        path.with_name("kept").rename(path)
    subprocess.run(
        [sys.executable, "-c", f"import socket; socket.socket(socket.AF_UNIX).bind({str(path)!r})"],
        check=True,
    )
    cri = Cri(str(path))
    assert cri.read(CONTAINER) is None
    assert "refused" in cri.about()["error"]


@pytest.mark.parametrize(
    "says",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b"\xff" * 5000, bytes.fromhex("000000040000000000")],
    ids=["http/1", "zeros", "ones", "settings and silence"],
)
def test_whatever_it_says_is_no_name_and_no_crash(path: Path, says: bytes) -> None:
    with Runtime(path, {}, says=says):
        cri = Cri(str(path))
        assert cri.read(CONTAINER) is None
        assert cri.about()["error"]


@pytest.mark.parametrize(
    "answer",
    [b"\xff" * 40, field(1, "x" * 200)[:100], field(1, "x" * (MAX_BYTES + 1)), b"\x0b"],
    ids=["no message", "cut", "huge", "groups"],
)
def test_an_answer_that_is_no_message_is_no_name(path: Path, answer: bytes) -> None:
    with Runtime(path, {("ContainerStatus", field(1, CONTAINER)): answer}):
        cri = Cri(str(path))
        assert cri.read(CONTAINER) is None
        assert cri.about()["error"]


def test_a_containerd_without_its_cri_plugin_is_said(path: Path) -> None:
    with Runtime(path, {}):
        cri = Cri(str(path))
        assert cri.read(CONTAINER) is None
        assert "gRPC status 12" in cri.about()["error"]


def test_never_means_never(path: Path) -> None:
    with Runtime(path, CONTAINERD) as runtime:
        cri = Cri("never")
        assert cri.read(CONTAINER) is None
        assert cri.about() == {"socket": "", "runtime": "", "error": ""}
        assert runtime.calls == []


def test_h2_is_not_imported_before_somebody_asks() -> None:
    code = "import sys, agent.daemon.wiring.daemon; print('h2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_map_and_unknown_fields_are_read() -> None:
    entry = field(1, "key") + field(2, "value")
    raw = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + field(4, entry.decode()) + field(5, "é")
    message = Message(raw)
    assert message.strings(4) == {"key": "value"}
    assert (message.text(5), message.text(6)) == ("é", "")
