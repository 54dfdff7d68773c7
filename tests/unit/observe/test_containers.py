"""State as each runtime leaves it: podman's and crun's recorded (4.3, 1.8), the others' by their sources."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.model import Container
from agent.observe.containers import Containers
from agent.observe.containers import files as state_files
from agent.observe.containers.registry import Roots

NUMBER = "133fbb7382049ea817787d83b0591ac82080563cdcec007a0d7b068ba889b12e"
OTHER = "7a53a2b7ea6bb8862b1504d55adac9287dec9699f916e850087723fb9f52d152"


class Node:
    """A host's runtime state and cgroups, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(
            containerd=(folder / "containerd",),
            docker=(folder / "docker",),
            storage=(folder / "storage-run", folder / "storage-lib"),
            crun=folder / "crun",
            runc=folder / "runc",
            cni=folder / "cni",
            netavark=folder / "netavark",
        )
        self.cgroups = folder / "cgroup"
        self.now_s = 0.0
        self.containers = Containers(self.roots, self.cgroups, clock=lambda: self.now_s)

    def write(self, path: Path, value: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))

    def named(self, cgroup: str) -> Container | None:
        (self.cgroups / cgroup.lstrip("/")).mkdir(parents=True, exist_ok=True)
        return self.containers.at(cgroup)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    real = os.stat

    def owned_by_root(path: Any, **how: Any) -> Any:
        found = real(path, **how)
        fields = list(found)
        if str(path).startswith(str(tmp_path / "cgroup")):
            fields[4] = OWNERS.get(str(path), 0)
        return os.stat_result(fields)

    OWNERS.clear()
    monkeypatch.setattr("agent.observe.containers.registry.os.stat", owned_by_root)
    return Node(tmp_path)


OWNERS: dict[str, int] = {}
"""By directory of a cgroup: its owner, where that is not root."""


def docker_state(name: str = "/web", image: str = "nginx:1.25", **labels: str) -> dict[str, Any]:
    return {"ID": NUMBER, "Name": name, "Image": "sha256:0", "Config": {"Image": image, "Labels": labels}}


PODMAN_LIST = [
    {
        "id": NUMBER,
        "names": ["web-pod"],
        "image": "bd8e44ad5db20e083d81abd1eb2674cab4580af4ba4c9700973294b9b3264cf9",
        "layer": "19c478b0434fa54a846f95e0f18856b04b34c554d112a68640ff01178562923c",
        "metadata": '{"image-name":"docker.io/library/tiny:1.2","image-id":"bd8e44ad5db20e083d81abd1eb2674cab'
        '4580af4ba4c9700973294b9b3264cf9","name":"web-pod","created-at":1795489643}',
        "created": "2026-11-24T03:07:23.168745667Z",
        "flags": {"MountLabel": "", "ProcessLabel": ""},
    }
]
PODMAN_BUNDLE = {
    "annotations": {
        "io.container.manager": "libpod",
        "io.kubernetes.cri-o.Created": "2026-11-24T03:07:42.252392982Z",
        "io.kubernetes.cri-o.TTY": "false",
        "io.podman.annotations.autoremove": "FALSE",
        "org.opencontainers.image.stopSignal": "15",
    }
}
CRIO_BUNDLE = {
    "annotations": {
        "io.container.manager": "cri-o",
        "io.kubernetes.cri-o.ImageName": "registry.example/shop/cart:3",
        "io.kubernetes.cri-o.Labels": json.dumps(
            {
                "io.kubernetes.container.name": "server",
                "io.kubernetes.pod.name": "cart-0",
                "io.kubernetes.pod.namespace": "shop",
            }
        ),
    }
}
CONTAINERD_BUNDLE = {
    "annotations": {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "server",
        "io.kubernetes.cri.image-name": "registry.example/shop/cart:3",
        "io.kubernetes.cri.sandbox-id": OTHER,
        "io.kubernetes.cri.sandbox-name": "cart-0",
        "io.kubernetes.cri.sandbox-namespace": "shop",
    }
}
POD = {"name": "server", "image": "registry.example/shop/cart:3", "pod": "cart-0", "namespace": "shop"}


@pytest.mark.parametrize("cgroup", [f"/system.slice/docker-{NUMBER}.scope", f"/docker/{NUMBER}"])
def test_docker(node: Node, cgroup: str) -> None:
    node.write(node.roots.docker[0] / NUMBER / "config.v2.json", docker_state())
    assert node.named(cgroup) == Container(NUMBER, "docker", "web", "nginx:1.25", known=True)


def test_docker_below_kubernetes(node: Node) -> None:
    labels = {
        "io.kubernetes.container.name": "server",
        "io.kubernetes.pod.name": "cart-0",
        "io.kubernetes.pod.namespace": "shop",
    }
    state = docker_state("/k8s_server_cart-0_shop_1_0", POD["image"], **labels)
    node.write(node.roots.docker[0] / NUMBER / "config.v2.json", state)
    found = node.named(f"/kubepods.slice/kubepods-pod1.slice/docker-{NUMBER}.scope")
    assert found == Container(NUMBER, "docker", **POD, known=True)


@pytest.mark.parametrize(
    "cgroup",
    [
        f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{NUMBER}.scope",
        f"/kubepods/burstable/pod1/{NUMBER}",
        f"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{NUMBER}",
    ],
)
def test_containerd(node: Node, cgroup: str) -> None:
    node.write(node.roots.containerd[0] / "k8s.io" / NUMBER / "config.json", CONTAINERD_BUNDLE)
    assert node.named(cgroup) == Container(NUMBER, "containerd", **POD, known=True)


def test_nerdctl(node: Node) -> None:
    annotations = {"nerdctl/name": "web", "nerdctl/namespace": "default"}
    bundle = {"annotations": annotations}
    node.write(node.roots.containerd[0] / "default" / NUMBER / "config.json", bundle)
    found = node.named(f"/system.slice/nerdctl-{NUMBER}.scope")
    assert found == Container(NUMBER, "containerd", "web", known=True)


def test_a_sandbox_has_a_pod_and_no_name(node: Node) -> None:
    annotations = dict(CONTAINERD_BUNDLE["annotations"])
    del annotations["io.kubernetes.cri.container-name"]
    node.write(node.roots.containerd[0] / "k8s.io" / NUMBER / "config.json", {"annotations": annotations})
    found = node.named(f"/kubepods/pod1/{NUMBER}")
    assert found
    assert (found.pod, found.label) == ("cart-0", NUMBER[:12])


@pytest.mark.parametrize("cgroup", [f"/kubepods.slice/crio-{NUMBER}.scope", f"/kubepods/pod1/crio-{NUMBER}"])
def test_crio(node: Node, cgroup: str) -> None:
    node.write(node.roots.storage[0] / NUMBER / "userdata" / "config.json", CRIO_BUNDLE)
    assert node.named(cgroup) == Container(NUMBER, "cri-o", **POD, known=True)


@pytest.mark.parametrize(
    "cgroup", [f"/machine.slice/libpod-{NUMBER}.scope", f"/libpod_parent/libpod-{NUMBER}"]
)
@pytest.mark.parametrize("listed", ["containers.json", "volatile-containers.json"])
def test_podman(node: Node, cgroup: str, listed: str) -> None:
    node.write(node.roots.storage[1] / NUMBER / "userdata" / "config.json", PODMAN_BUNDLE)
    node.write(node.roots.storage[1] / listed, PODMAN_LIST)
    expected = Container(NUMBER, "podman", "web-pod", "docker.io/library/tiny:1.2", known=True)
    assert node.named(cgroup) == expected
    inside = node.containers.containing(f"{cgroup}/container")
    assert inside == expected


def test_podmans_list_is_read_again_when_it_has_changed(node: Node) -> None:
    listed = node.roots.storage[1] / "containers.json"
    node.write(listed, [])
    cgroup = f"/machine.slice/libpod-{NUMBER}.scope"
    found = node.named(cgroup)
    assert found == Container(NUMBER, "podman")
    node.write(listed, PODMAN_LIST)
    assert node.named(cgroup) == found, "not looked for again at once"
    node.now_s += 1
    found = node.named(cgroup)
    assert found
    assert found.name == "web-pod"


@pytest.mark.parametrize("cgroup", ["/web", "/system.slice/crun-web.scope"])
def test_crun_by_hand(node: Node, cgroup: str) -> None:
    node.write(node.roots.crun / "web" / "status", {"pid": 7727, "cgroup-path": cgroup, "bundle": "/x"})
    node.write(node.roots.crun / "web" / "config.json", {"ociVersion": "1.0.0", "annotations": {}})
    assert node.named(cgroup) == Container("web", "crun", "web", known=True)


def test_runc_by_hand_before_and_after_its_state_is_written(node: Node, tmp_path: Path) -> None:
    (node.roots.runc / "web").mkdir(parents=True)
    assert node.named("/web") == Container("web", "runc", "web", known=True)
    bundle = tmp_path / "bundle"
    node.write(bundle / "config.json", {"annotations": {"org.opencontainers.image.ref.name": "tiny:1"}})
    state = {"id": "other", "config": {"labels": [f"bundle={bundle}"]}}
    node.write(node.roots.runc / "other" / "state.json", state)
    assert node.named("/other") == Container("other", "runc", "other", "tiny:1", known=True)


def test_a_managers_container_is_not_named_by_the_number_crun_knows_it_by(node: Node) -> None:
    node.write(node.roots.crun / NUMBER / "config.json", {"annotations": {}})
    assert node.named(f"/machine.slice/libpod-{NUMBER}.scope") == Container(NUMBER, "podman")


def test_what_is_no_container_is_none(node: Node) -> None:
    (node.roots.crun / "web").mkdir(parents=True)
    assert node.named("/system.slice/nginx.service") is None
    assert node.named("/") is None
    assert node.containers.containing("/web/inner")
    assert node.named("/web/inner") is None


def test_a_cgroup_that_becomes_a_container_is_looked_at_again(node: Node) -> None:
    assert node.named("/web") is None
    (node.roots.crun / "web").mkdir(parents=True)
    assert node.named("/web") is None
    node.containers.appeared("/web")
    assert node.named("/web")


def test_what_is_gone_is_forgotten(node: Node) -> None:
    node.write(node.roots.docker[0] / NUMBER / "config.v2.json", docker_state())
    cgroup = f"/docker/{NUMBER}"
    assert node.named(cgroup)
    node.write(node.roots.docker[0] / NUMBER / "config.v2.json", docker_state("/renamed"))
    found = node.named(cgroup)
    assert found
    assert found.name == "web"
    node.containers.forget_all_but([])
    found = node.named(cgroup)
    assert found
    assert found.name == "renamed"


def test_in_a_tree_that_belongs_to_a_user_a_cgroup_has_no_name(node: Node) -> None:
    node.write(node.roots.docker[0] / NUMBER / "config.v2.json", docker_state())
    OWNERS[str(node.cgroups / "user.slice")] = 1000
    cgroup = f"/user.slice/app/docker-{NUMBER}.scope"
    assert node.named(cgroup) is None
    assert node.containers.containing(cgroup) == Container(NUMBER, "docker")


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"Name": 7, "Config": []}',
        '{"Config": {"Image": {}, "Labels": null}}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_what_is_no_state_names_nothing_and_harms_nothing(node: Node, state: str) -> None:
    node.write(node.roots.docker[0] / NUMBER / "config.v2.json", state)
    node.write(node.roots.containerd[0] / "k8s.io" / NUMBER / "config.json", state)
    node.write(node.roots.storage[0] / NUMBER / "userdata" / "config.json", state)
    node.write(node.roots.storage[1] / "containers.json", state)
    node.write(node.roots.runc / NUMBER / "state.json", state)
    found = node.named(f"/docker/{NUMBER}")
    assert found
    assert not found.name


def test_a_file_that_is_too_large_is_not_read(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    path = node.roots.docker[0] / "large"
    node.write(path, '"' + "x" * 100 + '"')
    assert state_files.read_json(path, limit=1000) == "x" * 100
    assert state_files.read_json(path, limit=50) is None


def test_whose_state_was_found(node: Node) -> None:
    assert not any(node.roots.found().values())
    (folder,) = node.roots.docker
    folder.mkdir()
    assert node.roots.found()["docker"] == "", "a chart makes what it mounts"
    (folder / NUMBER).mkdir()
    assert node.roots.found()["docker"] == str(folder)


A_POD = "f" * 64


@pytest.mark.parametrize("parent", ["/libpod_parent", "/custom", "/machine.slice"])
def test_a_container_in_a_pod_of_podman_is_the_container(node: Node, parent: str) -> None:
    pod, own = f"{parent}/{A_POD}", f"{parent}/{A_POD}/libpod-{NUMBER}"
    (node.cgroups / own[1:]).mkdir(parents=True)
    bundle = {"linux": {"cgroupsPath": own}}
    node.write(node.roots.storage[0] / NUMBER / "userdata" / "config.json", bundle)
    node.write(node.roots.storage[0] / "containers.json", [{"id": NUMBER, "names": ["web"]}])
    found = node.containers.at(own)
    assert found is not None
    assert (found.name, found.runtime) == ("web", "podman")
    assert node.containers.containing(f"{own}/x") == found
    of_pod = node.containers.at(pod)
    assert of_pod is None or (of_pod.known, of_pod.name) == (True, ""), "nothing is awaited of it"


def test_a_container_that_calls_a_cgroup_like_one_in_a_pod_stays_what_it_is(node: Node) -> None:
    own = f"/docker/{A_POD}"
    forged = f"{own}/libpod-{NUMBER}"
    (node.cgroups / forged[1:]).mkdir(parents=True)
    node.write(node.roots.docker[0] / A_POD / "config.v2.json", docker_state("/evil"))
    bundle = {"linux": {"cgroupsPath": f"/machine.slice/libpod-{NUMBER}.scope"}}
    node.write(node.roots.storage[0] / NUMBER / "userdata" / "config.json", bundle)
    node.write(node.roots.storage[0] / "containers.json", [{"id": NUMBER, "names": ["web"]}])
    assert node.containers.at(forged) is None
    containing = node.containers.containing(forged)
    assert containing is not None
    assert containing.name == "evil"


def test_in_a_bare_container_nothing_is_another_one(node: Node) -> None:
    (node.roots.crun / "bare").mkdir(parents=True)
    node.write(node.roots.docker[0] / NUMBER / "config.v2.json", docker_state())
    forged = f"/bare/docker-{NUMBER}.scope"
    (node.cgroups / forged[1:]).mkdir(parents=True)
    assert node.containers.at(forged) is None
    containing = node.containers.containing(forged)
    assert containing is not None
    assert containing.id == "bare"
    assert node.containers.unit_of("/bare/system.slice/nginx.service") == ""
    assert node.containers.unit_of("/system.slice/nginx.service/x") == "nginx.service"


def test_a_unit_in_a_tree_that_others_were_given_is_none_though_it_is_taken_back(node: Node) -> None:
    path = "/given.slice/nginx.service"
    (node.cgroups / path[1:]).mkdir(parents=True)
    assert node.containers.unit_of(path) == "nginx.service"
    OWNERS[str(node.cgroups / "given.slice")] = 1000
    assert node.containers.unit_of(path) == ""
    node.containers.appeared(path, by_root=False)
    OWNERS.clear()
    assert node.containers.unit_of(path) == ""
    assert node.containers.delegated == {"/given.slice"}
    node.containers.forget_all_but({"/given.slice"})
    assert node.containers.delegated == frozenset()
