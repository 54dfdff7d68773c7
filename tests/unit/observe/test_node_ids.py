"""What identifies this node is read from the host's files, also where the agent has another root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.license.node import machine_id_node, product_node
from agent.observe.node_ids import read_node_ids

MACHINE = "5f0c2b1a9d8e4f7360718293a4b5c6d7"
OTHER = "0123456789abcdef5566778899aabbcd"
PRODUCT = "4C4C4544-0034-3510-8052-B4C04F4A4E32"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root of process 1."""
    (tmp_path / "1/root/etc").mkdir(parents=True)
    (tmp_path / "1/root/etc/machine-id").write_text(f"{MACHINE}\n")
    (tmp_path / "uuid").write_text(f"{PRODUCT}\n")
    return tmp_path / "1/root"


def read(host: Path) -> tuple[dict[str, str], dict[str, str]]:
    ids = read_node_ids(host.parents[1], host.parents[1] / "uuid")
    assert set(ids.found) | set(ids.missing) == {"mi", "dm"}
    return ids.found, ids.missing


def test_both_are_read(host: Path) -> None:
    assert read(host) == ({"mi": machine_id_node(MACHINE), "dm": product_node(PRODUCT)}, {})


def test_what_cannot_be_read_has_its_reason(host: Path) -> None:
    (host / "etc/machine-id").unlink()
    (host.parents[1] / "uuid").write_text("03000200-0400-0500-0006-000700080009\n")
    found, missing = read(host)
    assert found == {}
    assert missing == {
        "mi": f"{host}/etc/machine-id: No such file or directory",
        "dm": "product_uuid is a placeholder that many hosts share",
    }


@pytest.mark.parametrize(
    "content", [b"", b"uninitialized\n", b"\xff" * 32, b"0" * 32, MACHINE.encode() * 1000]
)
def test_what_is_no_id_has_its_reason(host: Path, content: bytes) -> None:
    (host / "etc/machine-id").write_bytes(content)
    found, missing = read(host)
    assert set(found) == {"dm"}
    assert missing["mi"].startswith("machine-id is ")


def test_a_fifo_does_not_stop_it(host: Path) -> None:
    (host / "etc/machine-id").unlink()
    os.mkfifo(host / "etc/machine-id")
    assert "it is a FIFO, and a file is expected" in read(host)[1]["mi"]


def test_a_link_is_followed_as_the_host_sees_it(host: Path) -> None:
    """Many systems without a writable /etc have /etc/machine-id -> /run/machine-id."""
    (host / "run").mkdir()
    (host / "run/machine-id").write_text(OTHER)
    (host / "etc/machine-id").unlink()
    for target in ("/run/machine-id", "../run/machine-id", "../../../../../../run/machine-id"):
        (host / "etc/machine-id").symlink_to(target)
        assert read(host)[0]["mi"] == machine_id_node(OTHER)
        (host / "etc/machine-id").unlink()


def test_a_folder_that_is_a_link_is_followed_as_the_host_sees_it(host: Path) -> None:
    (host / "etc").rename(host / "real")
    (host / "etc").symlink_to("/real")
    assert read(host)[0]["mi"] == machine_id_node(MACHINE)


def test_links_in_a_circle_end(host: Path) -> None:
    (host / "etc/machine-id").unlink()
    (host / "etc/machine-id").symlink_to("/etc/machine-id")
    assert "Too many levels of symbolic links" in read(host)[1]["mi"]


def test_without_a_process_1_that_may_be_read_there_is_no_machine_id(tmp_path: Path) -> None:
    ids = read_node_ids(tmp_path, tmp_path / "none")
    assert ids.found == {}
    assert set(ids.missing) == {"mi", "dm"}
