"""The agent's own settings, /etc/licet/config.yaml. Every directory is a setting, so that several
agents (tests, a demo, the host's) live side by side."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from agent.errors import ConfigError, shown
from agent.policy.document.yamltext import Text, Unreadable, read_yaml
from agent.wording import what_is_wrong

DEFAULT_PATH = Path("/etc/licet/config.yaml")
MOST_BYTES = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scope(_Section):
    """What of the host the agent looks at. Programs attach to `cgroup` and what is below it."""

    cgroup: str = "/"
    """A cgroup2 path as in /proc/PID/cgroup."""
    interfaces: tuple[str, ...] = ()
    """For the tc gate: shell patterns of the interfaces it may attach to, in every namespace in scope; ["*"]:
    all. While it is empty the tc gate is attached nowhere, and the socket gate refuses alone."""
    namespaces: tuple[str, ...] | None = None
    """Paths of the network namespaces whose listeners are looked at and where the socket and tc gates may be;
    absent: all of them, but no such gate where `cgroup` is narrowed."""


class Paths(_Section):
    policy: Path = Path("/etc/licet/policy.yaml")
    policy_dir: Path = Path("/etc/licet/policy.d")
    run: Path = Path("/run/licet")
    state: Path = Path("/var/lib/licet")
    pins: Path = Path("/sys/fs/bpf/licet")
    programs: Path = Path("/var/lib/licet/programs")
    """What bcc has compiled, for the next start."""
    proc: Path = Path("/proc")
    etc: Path = Path("/etc")
    """Of the host's passwd, group and subuid: members of excluded groups, and subordinate ids."""


class Containers(_Section):
    """Where container runtimes keep their state: names and images come from there. What is not there is left
    out; an agent in a container of its own has them mounted elsewhere."""

    containerd: tuple[Path, ...] = (
        Path("/run/containerd/io.containerd.runtime.v2.task"),
        Path("/run/k3s/containerd/io.containerd.runtime.v2.task"),  # RKE2's, too
        Path("/run/k0s/containerd/io.containerd.runtime.v2.task"),
        Path("/var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task"),
    )
    docker: tuple[Path, ...] = (
        Path("/var/lib/docker/containers"),
        Path("/var/snap/docker/common/var-lib-docker/containers"),
    )
    storage: tuple[Path, ...] = (
        Path("/run/containers/storage/overlay-containers"),
        Path("/var/lib/containers/storage/overlay-containers"),
    )
    """Of CRI-O and podman: the first has the bundles, the second the names."""
    crun: Path = Path("/run/crun")
    runc: Path = Path("/run/runc")
    cni: Path = Path("/var/lib/cni/results")
    netavark: Path = Path("/run/containers/networks/firewall/ports")
    """Of published ports."""
    cri: str = "auto"
    """The socket of Kubernetes' container runtime interface, asked where none of the above knows a name.
    auto: the first that is there of containerd's (also that of k3s, RKE2, k0s and MicroK8s), CRI-O's and
    cri-dockerd's; never: none."""

    @field_validator("containerd", "docker", mode="before")
    @classmethod
    def _may_be_one_folder(cls, folders: object) -> object:
        return [folders] if isinstance(folders, str) else folders

    @field_validator("cri")
    @classmethod
    def _is_a_socket_or_a_choice(cls, cri: str) -> str:
        if cri not in ("auto", "never") and not cri.startswith("/"):
            raise ValueError(f"{cri!r} is not auto, never or the path of a socket")
        return cri


class Intervals(_Section):
    """Seconds."""

    summary: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """How often repeats of one violation are summarised."""
    reconcile: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """How often kernel state is compared with sock_diag, /proc and the host's addresses."""


class Events(_Section):
    sink: str = "auto"
    """stdout, none, or a file that JSON lines are appended to. auto: stdout with `licet run --quiet` (a
    service), none otherwise (readable lines on stderr)."""
    flows: bool = False
    """Also an event for every flow that opens or closes (not meant for busy targets)."""
    args: bool = True
    """Whether events have the arguments of processes, which may hold secrets."""
    keep: Annotated[int, Field(ge=0, le=100_000)] = 2000
    """How many recent events `licet events` can show."""


FAILSAFE_PORTS = (22, 53, 179, 2379, 2380, 6443, 10250)
"""ssh, DNS, BGP, etcd, the Kubernetes API and kubelet: without these, nobody could take an enforce back."""


class Guard(_Section):
    failsafe_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = FAILSAFE_PORTS
    """Never refused, whatever a policy or a mode says; the agent's own port is one of them."""


class Settings(_Section):
    scope: Scope = Scope()
    paths: Paths = Paths()
    listen: str = "127.0.0.1:9477"
    """host:port of /metrics, /healthz and /readyz; port 0 takes a free one (shown by `licet status`)."""
    health_listen: str = ""
    """host:port of /healthz and /readyz alone, for probes: a loopback address where strangers reach `listen`,
    which has both, too. Answered beside the daemon's loop, with 503 once that hangs. Absent: none."""
    hosts: tuple[str, ...] = ()
    """Names that /metrics answers to, beside addresses, localhost and this node's name; ["*"]: any, also one
    that a page in a browser makes up."""
    containers: Containers = Containers()
    intervals: Intervals = Intervals()
    events: Events = Events()
    guard: Guard = Guard()
    acceptor: Literal["auto", "always", "never", "fexit", "kretprobe", "socket-io"] = "auto"
    """Name the worker that accepted: auto only where it is free; always also at a cost for each socket
    send and receive; never; or by the one rung that is named here, where the kernel has it."""
    edges: Literal["auto", "always", "never"] = "auto"
    """Aggregate unprotected traffic by edge: auto only while no policy is loaded."""
    costs: bool = False
    """Hold a BPF_ENABLE_STATS fd, so that licet_bpf_program_* metrics appear."""

    @field_validator("listen", "health_listen")
    @classmethod
    def _is_host_and_port(cls, listen: str, info: ValidationInfo) -> str:
        if not listen and info.field_name == "health_listen":
            return listen
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"{listen!r} is not HOST:PORT, such as 127.0.0.1:9477")
        return listen

    @property
    def control_socket(self) -> Path:
        return self.paths.run / "control.sock"


def load_settings(path: Path | None) -> Settings:
    """Settings from `path`; from the default place, which may be absent, when path is None.

    Raises ConfigError naming file, key and cause."""
    chosen = path or DEFAULT_PATH
    if not os.path.lexists(chosen):
        if path is None:
            return Settings()
        raise ConfigError(f"{chosen}: no such file: write it, or name another with --config")
    try:
        text = read_yaml(chosen, MOST_BYTES, "name the configuration: --config /etc/licet/config.yaml")
    except Unreadable as error:
        raise ConfigError("\n".join(shown(error.findings))) from error
    raw = {} if text.data is None else text.data
    if not isinstance(raw, dict):
        raise ConfigError(f"{chosen}:1: expected a mapping of settings, found {type(raw).__name__}")
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        details = sorted(error.errors(), key=lambda detail: text.place(detail["loc"]).line or 0)
        mistakes = [_told(text, detail) for detail in details]
        raise ConfigError("\n".join(shown(mistakes))) from error
    return settings


def _told(text: Text, detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    return f"{text.place(detail['loc'])}: {key}: {_why(detail)}"


def _why(detail: Any) -> str:
    if detail["type"] != "extra_forbidden":
        return what_is_wrong(detail)
    section: type[BaseModel] = Settings
    for step in detail["loc"][:-1]:
        inner = section.model_fields[step].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            section = inner
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
    return "no such setting; " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}")
