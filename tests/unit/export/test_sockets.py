import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from agent.errors import ConfigError, KernelError
from agent.export import sockets
from agent.export.sockets import listen_tcp, listen_unix


def test_port_0_takes_a_free_one() -> None:
    with listen_tcp("127.0.0.1:0") as listener:
        assert listener.getsockname()[1] > 0


def test_an_ipv6_address_stands_in_brackets() -> None:
    with listen_tcp("[::1]:0") as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.parametrize(
    "listen",
    ["", "9477", "127.0.0.1", "127.0.0.1:", ":9477", "127.0.0.1:x", "127.0.0.1:65536", "a:" + "9" * 9000],
)
def test_what_is_no_address_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9477"):
        listen_tcp(listen)


@pytest.mark.parametrize("listen", ["203.0.113.7:0", "no-such-host.invalid:0", f"{'a' * 300}:0"])
def test_an_address_this_host_lacks_is_refused_by_name(listen: str) -> None:
    with pytest.raises(ConfigError, match=listen):
        listen_tcp(listen)


def test_a_port_that_is_taken_is_refused_by_name() -> None:
    with listen_tcp("127.0.0.1:0") as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"{address}: Address already in use"):
            listen_tcp(address)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_control_socket_is_the_owners_and_the_groups_whatever_the_umask(
    tmp_path: Path, umask: int
) -> None:
    path = tmp_path / "run" / "control.sock"
    before = os.umask(umask)
    try:
        with listen_unix(path):
            mode = path.stat().st_mode
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


@pytest.mark.root
def test_the_control_socket_belongs_to_the_group_where_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = next(each for each in grp.getgrall() if each.gr_gid)
    monkeypatch.setattr(sockets, "CONTROL_GROUP", group.gr_name)
    with listen_unix(tmp_path / "control.sock"):
        assert (tmp_path / "control.sock").stat().st_gid == group.gr_gid


def test_the_socket_of_a_daemon_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    listen_unix(path).close()
    with listen_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("mine")
    with pytest.raises(KernelError, match="remove it"):
        listen_unix(path)
    assert path.read_text() == "mine"


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelError, match=r"file/control\.sock"):
        listen_unix(tmp_path / "file" / "control.sock")


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="too long"):
        listen_unix(tmp_path / ("x" * 120))
