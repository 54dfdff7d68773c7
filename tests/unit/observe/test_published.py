"""Published ports, from what runtimes write: each text is of the runtime's own form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.model import Protocol, Publication, to_address
from agent.observe.containers.published import Published

NUMBER = "133fbb7382049ea817787d83b0591ac82080563cdcec007a0d7b068ba889b12e"
DOCKER = {
    "State": {"Running": True, "Pid": 4711},
    "ID": NUMBER,
    "NetworkSettings": {
        "Bridge": "",
        "SandboxKey": "/var/run/docker/netns/9a1f",
        "Ports": {
            "5432/tcp": [{"HostIp": "0.0.0.0", "HostPort": "5432"}, {"HostIp": "::", "HostPort": "5432"}],
            "9187/tcp": [{"HostIp": "127.0.0.1", "HostPort": "19187"}],
            "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "5300"}],
            "8080/tcp": None,
        },
        "Networks": {"bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": ""}},
    },
}
PODMAN_WITH_CNI = {
    "kind": "cniCacheV1",
    "containerId": NUMBER,
    "config": "ewogIC=",
    "ifName": "eth0",
    "networkName": "podman",
    "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "pub"]],
    "capabilityArgs": {
        "aliases": {"podman": ["98cca5b3d057"]},
        "portMappings": [{"hostPort": 18080, "containerPort": 7513, "protocol": "tcp"}],
    },
    "result": {
        "cniVersion": "0.4.0",
        "interfaces": [{"mac": "ba:77:48:70:81:b8", "name": "eth0", "sandbox": "/run/netns/netns-25887c1b"}],
        "ips": [{"address": "10.88.0.2/16", "gateway": "10.88.0.1", "interface": 2, "version": "4"}],
    },
}
NETAVARK = {
    "container_id": NUMBER,
    "port_mappings": [
        {"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 2}
    ],
    "network_name": "podman",
    "network_hash_name": "1a2b",
    "container_ip_v4": "10.88.0.3",
    "subnet_v4": "10.88.0.0/16",
    "container_ip_v6": "fd00::3",
    "subnet_v6": None,
    "dns_port": 53,
    "dns_server_ips": [],
}


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published = Published((folder / "snap", folder / "docker"), folder / "cni", folder / "netavark")

    def write(self, path: str, value: Any) -> str:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return str(file)

    def places(self) -> set[tuple[str, str, int, tuple[str, ...], int]]:
        return {
            (one.protocol.name, str(one.address), one.port, tuple(map(str, one.to)), one.to_port)
            for one in self.published.all()
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_docker(host: Host) -> None:
    path = host.write(f"docker/{NUMBER}/config.v2.json", DOCKER)
    to = (to_address("172.17.0.2"),)
    assert set(host.published.all()) == {
        Publication(Protocol.TCP, to_address("0.0.0.0"), 5432, to, 5432, path),
        Publication(Protocol.TCP, to_address("::"), 5432, to, 5432, path),
        Publication(Protocol.TCP, to_address("127.0.0.1"), 19187, to, 9187, path),
        Publication(Protocol.UDP, to_address("0.0.0.0"), 5300, to, 53, path),
    }


def test_cni_without_an_address_on_the_host_means_all_of_the_containers_family(host: Host) -> None:
    path = host.write(f"cni/podman-{NUMBER}-eth0", PODMAN_WITH_CNI)
    to = (to_address("10.88.0.2"),)
    assert host.published.all() == (Publication(Protocol.TCP, to_address("0.0.0.0"), 18080, to, 7513, path),)


def test_netavark_with_a_range_and_both_families(host: Host) -> None:
    path = host.write(f"netavark/1a2b_{NUMBER}", NETAVARK)
    to = (to_address("10.88.0.3"), to_address("fd00::3"))
    assert set(host.published.all()) == {
        Publication(Protocol.TCP, to_address(any_), 8080 + each, to, 80 + each, path)
        for any_ in ("0.0.0.0", "::")
        for each in (0, 1)
    }


def test_what_has_changed_is_read_again_and_what_is_gone_is_forgotten(host: Host) -> None:
    path = host.write(f"docker/{NUMBER}/config.v2.json", DOCKER)
    assert len(host.published.all()) == 4
    stopped = DOCKER | {"NetworkSettings": {"Ports": {}, "Networks": {"bridge": {"IPAddress": ""}}}}
    host.write(f"docker/{NUMBER}/config.v2.json", stopped)
    assert host.published.all() == ()
    host.write(f"docker/{NUMBER}/config.v2.json", DOCKER)
    Path(path).unlink()
    assert host.published.all() == ()


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "[]",
        "null",
        '{"NetworkSettings": []}',
        '{"NetworkSettings": {"Ports": {"x/tcp": [{"HostPort": "1"}]}, "Networks": {"b": AT}}}',
        '{"NetworkSettings": {"Ports": {"1/sctp": [{"HostPort": "1"}]}, "Networks": {"b": AT}}}',
        '{"NetworkSettings": {"Ports": {"1/tcp": [1, {"HostPort": "99999"}]}, "Networks": {"b": 1}}}',
        '{"result": {"ips": [1, {"address": "x"}]}, "capabilityArgs": {"portMappings": [1, {}]}}',
        '{"container_ip_v4": "10.0.0.1", "port_mappings": [{"host_port": 65535, "container_port": -1}]}',
    ],
)
def test_what_is_odd_is_passed_over(host: Host, odd: str) -> None:
    for path in (f"docker/{NUMBER}/config.v2.json", "cni/x", "netavark/x"):
        host.write(path, odd.replace("AT", '{"IPAddress": "1.2.3.4"}'))
    assert host.places() == set()
