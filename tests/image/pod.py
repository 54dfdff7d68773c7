"""A pod's container as a node's runtime would run it: what the chart asks for, as a config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.image.oci import Unpacked
from tests.packaging.chart import Object

SECCOMP = Path("/usr/share/containers/seccomp.json")
"""The default profile of podman and CRI-O (Debian's golang-github-containers-common); those of docker and
containerd depend on capabilities in the same way."""
MASKED = ("acpi", "kcore", "keys", "latency_stats", "timer_list", "sched_debug", "scsi")
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def runtime_config(
    pod: Object,
    image: Unpacked,
    *,
    cgroup: str,
    host_paths: Mapping[str, Path],
    config_maps: Mapping[str, Path],
    command: list[str],
) -> dict[str, Any]:
    """`host_paths`: where a hostPath volume is found instead, for those that belong to this test alone."""
    assert pod["hostPID"]
    assert pod["hostNetwork"]
    (container,) = pod["containers"]
    context = container["securityContext"]
    added = [f"CAP_{name}" for name in context["capabilities"]["add"]]
    environment = image.config["Env"] + [f"{one['name']}={one['value']}" for one in container["env"]]
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
            "args": command,
            "env": environment,
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), added),
            "noNewPrivileges": not context["allowPrivilegeEscalation"],
        },
        "root": {"path": str(image.root), "readonly": context["readOnlyRootFilesystem"]},
        "mounts": [*_every_container_has(), *_volumes(pod, container, host_paths, config_maps)],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("mount", "ipc", "uts", "cgroup")],
            "maskedPaths": [*(f"/proc/{name}" for name in MASKED), "/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in READ_ONLY],
            "seccomp": _default_seccomp(added),
        },
    }


def _every_container_has() -> list[Object]:
    kept_out = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": kept_out},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*kept_out, "mode=1777"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*kept_out, "ro"]},
    ]


def _volumes(
    pod: Object, container: Object, host_paths: Mapping[str, Path], config_maps: Mapping[str, Path]
) -> list[Object]:
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounts = []
    for mount in container["volumeMounts"]:
        volume, where = volumes[mount["name"]], {"destination": mount["mountPath"]}
        if "emptyDir" in volume:
            mounts.append({**where, "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]})
            continue
        if _is_missing(volume, config_maps):
            options = ["nosuid", "noexec", "nodev", "mode=755", "ro"]
            mounts.append({**where, "type": "tmpfs", "source": "tmpfs", "options": options})
            continue
        if "configMap" in volume:
            source = config_maps[volume["configMap"]["name"]]
        else:
            path = volume["hostPath"]["path"]
            source = host_paths.get(path, Path(path))
        spread = "rslave" if mount.get("mountPropagation") == "HostToContainer" else "rprivate"
        access = "ro" if mount.get("readOnly") else "rw"
        mounts.append({**where, "type": "bind", "source": str(source), "options": ["rbind", access, spread]})
    return mounts


def _is_missing(volume: Object, config_maps: Mapping[str, Path]) -> bool:
    """True for an optional ConfigMap or Secret that nobody made: kubelet mounts an empty folder."""
    source = volume.get("secret") or volume.get("configMap") or {}
    return source.get("optional", False) and source.get("name") not in config_maps


def _default_seccomp(capabilities: list[str]) -> Object:
    """RuntimeDefault, of a container with these capabilities on x86-64."""
    profile = json.loads(SECCOMP.read_text())

    def applies(rule: Object) -> bool:
        wanted, unwanted = rule["includes"], rule["excludes"]
        return (
            set(wanted.get("caps", ())) <= set(capabilities)
            and not set(unwanted.get("caps", ())) & set(capabilities)
            and "amd64" in wanted.get("arches", ["amd64"])
            and "amd64" not in unwanted.get("arches", ())
        )

    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {key: rule[key] for key in ("names", "action", "errnoRet", "args") if rule.get(key)}
            for rule in profile["syscalls"]
            if applies(rule)
        ],
    }
