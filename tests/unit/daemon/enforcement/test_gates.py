"""Gates: in which order they are attached, said to the programs and detached; what a kernel lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.config import Settings
from agent.daemon.enforcement.gates import Gates
from agent.errors import KernelError
from agent.kernel.attach.gates import LOOKUP
from agent.model import Namespace

HERE, THERE = Namespace(1, 1, "/proc/1/ns/net"), Namespace(2, 2, "/proc/2/ns/net")


@dataclass
class Kernel:
    """What is done to it, in order."""

    done: list[str] = field(default_factory=list)
    lacks: dict[str, str] = field(default_factory=dict)
    refuses: str = ""
    """A gate that it does not let be attached."""
    gates: tuple[str, ...] = ()
    """As the programs are told."""

    def set_gates(self, attached: Sequence[str]) -> None:
        self.done.append(f"say {' '.join(attached) or 'none'}")
        self.gates = tuple(attached)


@dataclass
class Hook:
    """A gate, as far as one attaches and detaches it."""

    kernel: Kernel
    name: str
    there: int = 0
    namespaces: Sequence[Namespace] = ()

    def attach(self) -> None:
        if self.kernel.refuses == self.name:
            raise OSError(1, f"{self.name} is not permitted")
        self.kernel.done.append(f"attach {self.name}")

    def sync(self, namespaces: Sequence[Namespace]) -> None:
        if self.kernel.refuses == self.name:
            raise KernelError(f"{self.name} is not permitted")
        self.kernel.done.append(f"attach {self.name}")
        self.namespaces = namespaces

    def detach(self, namespaces: Sequence[Namespace] = ()) -> None:
        self.kernel.done.append(f"detach {self.name}")
        self.namespaces = ()

    def attached(self) -> Any:
        found = [one.cookie for one in self.namespaces]
        return len(found) if self.name == "tc" else found

    def note(self) -> str:
        return "a note of its own"


@dataclass
class Datagrams:
    kernel: Kernel
    attached: bool = False
    watched: list[tuple[Sequence[Namespace], Sequence[int]]] = field(default_factory=list)

    def observe(self, namespaces: Sequence[Namespace], gated: Sequence[int]) -> None:
        self.watched.append((namespaces, gated))

    def enforce(self) -> None:
        self.kernel.done.append("attach datagrams")

    def detach_gate(self) -> None:
        self.kernel.done.append("detach datagrams")


@dataclass
class Lab:
    kernel: Kernel = field(default_factory=Kernel)
    wanted: bool = True
    interfaces: tuple[str, ...] = ("eth0",)
    scope: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        part: Any = self
        self.hooks = {name: Hook(self.kernel, name) for name in ("connect", "bind", "socket", "tc")}
        self.datagrams = Datagrams(self.kernel)
        self.gates = Gates(
            settings=Settings.model_validate({"scope": {"interfaces": self.interfaces, **self.scope}}),
            maps=part.kernel,
            modes=part,
            namespaces=part,
            connect=part.hooks["connect"],
            bind=part.hooks["bind"],
            socket=part.hooks["socket"],
            datagrams=part.datagrams,
            packet=part.hooks["tc"],
        )

    def needs_gates(self) -> bool:
        return self.wanted

    def all(self) -> list[Namespace]:
        return [HERE, THERE]

    def settle(self) -> list[str]:
        """What is done for it."""
        self.kernel.done.clear()
        asyncio.run(self.gates.settle())
        return list(self.kernel.done)

    def places(self) -> dict[str, str]:
        return {one["gate"]: one["attached_to"] for one in self.gates.status()}


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab()
    load = "agent.daemon.enforcement.gates.supervisor.load_gates"
    monkeypatch.setattr(load, lambda settings: made.kernel.lacks)
    return made


def test_nothing_is_called_refused_before_it_is_attached(lab: Lab) -> None:
    assert lab.settle() == [
        *("attach connect", "attach bind", "attach datagrams", "attach tc", "attach socket"),
        "say connect bind tc socket",
    ]
    assert lab.gates.attached == ("connect", "bind", "tc", "socket")


def test_what_is_detached_is_taken_back_first(lab: Lab) -> None:
    lab.settle()
    lab.wanted = False
    assert lab.settle() == [
        "say none",
        *("detach socket", "detach tc", "detach bind", "detach connect", "detach datagrams"),
    ]
    assert lab.gates.attached == ()


def test_what_an_earlier_run_left_is_detached_once(lab: Lab) -> None:
    lab.wanted, lab.kernel.gates = False, ("connect", "bind", "tc")
    assert "detach tc" in lab.settle()
    assert lab.settle() == ["say none"]


def test_filters_are_not_looked_for_where_none_were_attached(lab: Lab) -> None:
    """It would load pyroute2."""
    lab.wanted = False
    assert "detach tc" not in lab.settle()


def test_where_connect_cannot_be_refused_nothing_is(lab: Lab) -> None:
    lab.kernel.refuses = "connect"
    with pytest.raises(KernelError, match="connect is not permitted; nothing is refused"):
        lab.settle()
    assert lab.gates.attached == ()
    assert lab.kernel.gates == ()


def test_another_gate_that_cannot_be_attached_leaves_the_others(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.kernel.refuses = "tc"
    lab.settle()
    assert lab.gates.attached == ("connect", "bind", "socket")
    assert "the tc gate is not attached everywhere" in caplog.text


def test_a_program_that_this_kernel_does_not_take_is_noted(lab: Lab) -> None:
    lab.kernel.lacks = {LOOKUP: "sk_lookup is from Linux 5.9 on"}
    assert "attach socket" not in lab.settle()
    notes = {one["gate"]: one["note"] for one in lab.gates.status()}
    assert notes == {
        "connect": "",
        "bind": "",
        "socket": "sk_lookup is from Linux 5.9 on",
        "tc": "a note of its own",
    }


def test_status_says_to_how_many_places(lab: Lab) -> None:
    assert set(lab.places().values()) == {""}
    lab.settle()
    assert lab.places() == {
        "connect": "/",
        "bind": "/",
        "socket": "2 network namespaces",
        "tc": "2 interfaces",
    }


def test_without_interfaces_no_filter_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(interfaces=())
    monkeypatch.setattr("agent.daemon.enforcement.gates.supervisor.load_gates", lambda settings: {})
    assert "attach tc" not in lab.settle()
    assert lab.gates.attached == ("connect", "bind", "socket")


def test_a_narrowed_cgroup_narrows_the_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outside of it is refused, unless the namespaces are named."""
    monkeypatch.setattr("agent.daemon.enforcement.gates.supervisor.load_gates", lambda settings: {})
    lab = Lab(scope={"cgroup": "/one"})
    lab.settle()
    assert lab.hooks["socket"].namespaces == ()
    assert lab.gates.attached == ("connect", "bind")


def test_new_namespaces_are_followed_while_something_is_attached(lab: Lab) -> None:
    asyncio.run(lab.gates.follow())
    assert (lab.kernel.done, lab.datagrams.watched) == ([], [])
    lab.settle()
    lab.kernel.done.clear()
    asyncio.run(lab.gates.follow())
    assert lab.kernel.done == ["attach tc", "attach socket", "say connect bind tc socket"]


def test_datagrams_are_observed_where_no_gate_judges_their_arrival(lab: Lab) -> None:
    lab.wanted = False
    lab.settle()
    assert lab.datagrams.watched[-1] == ([HERE, THERE], ())
    lab.wanted = True
    lab.settle()
    assert lab.datagrams.watched[-1] == ([HERE, THERE], [1, 2])


def test_to_stand_by_attaches_nothing(lab: Lab) -> None:
    asyncio.run(lab.gates.stand_by())
    assert lab.kernel.done == []
