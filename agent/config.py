"""The agent's settings, /etc/licet/config.yaml. Every directory is a setting, so that several agents
(tests, a demo, the host's) can run on one host.

docs/configuration.md and packaging/host/etc/config.yaml are made from the texts below each field: `make
configuration`."""

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
    """Which part of the host the agent observes."""

    cgroup: str = "/"
    """A cgroup2 path as in /proc/PID/cgroup. Programs attach to this cgroup; processes outside it are not
    observed."""
    interfaces: tuple[str, ...] = ()
    """Shell patterns of the interfaces that the tc gate may attach to, in every namespace in scope. ["*"]
    means all. While the list is empty, the tc gate is not attached anywhere, and the socket gate refuses
    alone."""
    namespaces: tuple[str, ...] | None = None
    """Paths of the network namespaces whose listeners are observed, such as [/run/netns/a]. The socket and
    tc gates attach only there. null means all namespaces; but if `cgroup` is narrowed, these gates attach
    nowhere."""


class Paths(_Section):
    """Where files are. Each agent on a host has its own `run`, `state` and `pins`."""

    policy: Path = Path("/etc/licet/policy.yaml")
    """The policy. Only root may be able to write it, or a folder above it."""
    policy_dir: Path = Path("/etc/licet/policy.d")
    """More of the policy: *.yaml and *.yml here, merged in name order."""
    licenses: Path = Path("/etc/licet/licenses")
    """License documents and revocation lists of vendors: *.json here. A file that is removed is a license
    withdrawn."""
    keys: Path = Path("/etc/licet/keys")
    """The public keys of vendors that may sign them: *.yaml here. Only root may be able to write it, or a
    folder above it."""
    run: Path = Path("/run/licet")
    """The control socket and the lock of the daemon."""
    state: Path = Path("/var/lib/licet")
    """Numbers of targets, mode overrides, the last good policy, the uses of the last hour, license time, and
    what is kept of licenses."""
    pins: Path = Path("/sys/fs/bpf/licet")
    """Programs, maps and links in bpffs, which keep running without the daemon."""
    programs: Path = Path("/var/lib/licet/programs")
    """Cache of compiled programs, for the next start."""
    proc: Path = Path("/proc")
    """The host's /proc. Names of containers and executables come from it."""
    etc: Path = Path("/etc")
    """The host's passwd, group and subuid: members of excluded groups, and subordinate ids."""


class Containers(_Section):
    """Where container runtimes keep their state, which has names and images. A missing folder is skipped.
    An agent in a container has these folders mounted elsewhere."""

    containerd: tuple[Path, ...] = (
        Path("/run/containerd/io.containerd.runtime.v2.task"),
        Path("/run/k3s/containerd/io.containerd.runtime.v2.task"),  # also RKE2's
        Path("/run/k0s/containerd/io.containerd.runtime.v2.task"),
        Path("/var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task"),
    )
    """A folder, or a list of them: containerd itself, k3s and RKE2, k0s, MicroK8s."""
    docker: tuple[Path, ...] = (
        Path("/var/lib/docker/containers"),
        Path("/var/snap/docker/common/var-lib-docker/containers"),
    )
    """A folder, or a list of them: docker's, and that of its snap."""
    storage: tuple[Path, ...] = (
        Path("/run/containers/storage/overlay-containers"),
        Path("/var/lib/containers/storage/overlay-containers"),
    )
    """State of CRI-O and podman: the first folder has the bundles, the second the names."""
    crun: Path = Path("/run/crun")
    """Containers that crun runs without a manager."""
    runc: Path = Path("/run/runc")
    """Containers that runc runs without a manager."""
    cni: Path = Path("/var/lib/cni/results")
    """Ports that CRI-O, containerd and podman publish through CNI."""
    netavark: Path = Path("/run/containers/networks/firewall/ports")
    """Ports that podman publishes through netavark."""
    cri: str = "auto"
    """The socket of Kubernetes' container runtime interface: auto, never, or its path. It is queried if no
    folder above knows a name. auto takes the first that exists of containerd's (also that of k3s, RKE2,
    k0s and MicroK8s), CRI-O's and cri-dockerd's."""

    @field_validator("containerd", "docker", mode="before")
    @classmethod
    def _may_be_one_folder(cls, folders: object) -> object:
        return [folders] if isinstance(folders, str) else folders

    @field_validator("cri")
    @classmethod
    def _is_a_socket_or_a_choice(cls, cri: str) -> str:
        if cri not in ("auto", "never") and not cri.startswith("/"):
            raise ValueError(f"{cri!r} is not valid: write auto, never or the path of a socket")
        return cri


class Intervals(_Section):
    """How often, in seconds."""

    summary: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Repeats of a violation are reported as one summary."""
    reconcile: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Kernel state is compared with sock_diag, /proc and the host's addresses."""


class Events(_Section):
    """What is reported, and to where: docs/events.md."""

    sink: str = "auto"
    """stdout, none, or a file that JSON lines are appended to, such as /var/log/licet/events.jsonl. auto
    means stdout with `licet run --quiet` (a service). Otherwise auto means none: readable lines go to
    stderr."""
    flows: bool = False
    """Also emit an event for every flow that opens or closes. It is not meant for busy targets."""
    args: bool = True
    """Whether events include the arguments of processes, which may hold secrets."""
    keep: Annotated[int, Field(ge=0, le=100_000)] = 2000
    """How many recent events `licet events` can show."""


FAILSAFE_PORTS = (22, 53, 179, 2379, 2380, 6443, 10250)
"""ssh, DNS, BGP, etcd, the Kubernetes API and kubelet. If these were refused, an operator could no longer
reset an enforce."""


class Guard(_Section):
    """Limits that no policy can change."""

    failsafe_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = FAILSAFE_PORTS
    """Ports that are never refused, whatever a policy or a mode says. The agent's own port is one of them."""


class Settings(_Section):
    """All of config.yaml."""

    scope: Scope = Scope()
    paths: Paths = Paths()
    listen: str = "127.0.0.1:9477"
    """HOST:PORT of /metrics, /healthz and /readyz. Port 0 takes a free one, which `licet status` shows."""
    health_listen: str = ""
    """HOST:PORT of /healthz and /readyz alone, such as 127.0.0.1:9478: for probes, if strangers can reach
    `listen`. A separate thread answers, with 503 once the daemon's loop hangs. "" means none."""
    hosts: tuple[str, ...] = ()
    """Host names that /metrics accepts, besides addresses, localhost and this node's name. ["*"] means any
    name, even one that a web page makes up."""
    containers: Containers = Containers()
    intervals: Intervals = Intervals()
    events: Events = Events()
    guard: Guard = Guard()
    acceptor: Literal["auto", "always", "never", "fexit", "kretprobe", "socket-io"] = "auto"
    """Whether the process that accepted a connection is identified. auto: only if that costs nothing.
    always: even at a cost for each socket send and receive. The last three name the attach method
    (docs/kernels.md)."""
    edges: Literal["auto", "always", "never"] = "auto"
    """Whether unprotected connections are counted by consumer and server. auto: only while no policy is
    loaded."""
    require_signed: bool = False
    """Whether only signed license documents grant. true: licenses in the policy grant nothing, with the
    reason bad_signature."""
    costs: bool = False
    """Measure how long programs run, so that the licet_bpf_program_* metrics appear."""

    @field_validator("listen", "health_listen")
    @classmethod
    def _is_host_and_port(cls, listen: str, info: ValidationInfo) -> str:
        if not listen and info.field_name == "health_listen":
            return listen
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"{listen!r} is not a valid HOST:PORT, such as 127.0.0.1:9477")
        return listen

    @property
    def control_socket(self) -> Path:
        return self.paths.run / "control.sock"


def load_settings(path: Path | None) -> Settings:
    """Load the settings from `path`. None means the default path, which may be missing.

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
        mistakes = [_message(text, detail) for detail in details]
        raise ConfigError("\n".join(shown(mistakes))) from error
    return settings


def _message(text: Text, detail: Any) -> str:
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
