"""What is in the packages, seen without installing them."""

from __future__ import annotations

import gzip
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from agent import __version__
from tests.fixtures.lab import ROOT
from tests.installed import packages

RPM_RELEASE = "el10"


@pytest.fixture(scope="session")
def files(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deb")
    subprocess.run(["dpkg-deb", "--extract", deb, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def rpm() -> Path:
    return packages.package(RPM_RELEASE)


def field(deb: Path, name: str) -> str:
    done = subprocess.run(["dpkg-deb", "--field", deb, name], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def asked(rpm: Path, *query: str) -> list[str]:
    with tempfile.TemporaryDirectory() as base:  # rpm makes a data base even to look into a file
        command = ["rpm", "--dbpath", base, "-qp", *query, rpm]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_version_and_dependencies_are_those_of_the_release(deb: Path) -> None:
    assert field(deb, "Version") == f"{__version__}-1~{packages.tested_release()}"
    depends = field(deb, "Depends")
    assert "python3-bpfcc" in depends
    assert re.search(r"python3 \(>= 3\.\d+\), python3 \(<< 3\.\d+\)", depends)


def test_everything_belongs_to_root_and_nobody_else_can_write(deb: Path) -> None:
    shown = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True)
    archive = Path(deb).with_suffix(".tar")
    archive.write_bytes(shown.stdout)
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    archive.unlink()
    assert {(one.uid, one.gid) for one in members} == {(0, 0)}
    assert [one.name for one in members if not one.issym() and one.mode & 0o7022] == []


def test_what_an_administrator_may_edit_is_a_conffile(deb: Path) -> None:
    shown = subprocess.run(
        ["dpkg-deb", "--info", deb, "conffiles"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [
        "/etc/licet/config.yaml",
        "/etc/licet/policy.d/example.yaml.sample",
        "/etc/logrotate.d/licet",
    ]


def test_the_environment_is_complete_and_knows_nothing_of_where_it_was_built(files: Path) -> None:
    top = files / "opt" / "licet"
    assert (top / "bpf" / "include").is_dir()
    assert (top / "bin" / "licet").read_text().startswith("#!/opt/licet/bin/python -IB\n")
    assert str((top / "bin" / "python").readlink()).startswith("/usr/bin/python3.")
    assert list(top.rglob("__pycache__")) == []
    assert sorted(one.name for one in (top / "bin").iterdir()) == ["licet", "python"]
    here = str(ROOT).encode()
    assert [one for one in files.rglob("*") if one.is_file() and here in one.read_bytes()] == []


def test_the_configuration_says_nothing_until_it_is_edited(files: Path) -> None:
    lines = (files / "etc/licet/config.yaml").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    assert list((files / "etc/licet").rglob("*.yaml")) == [files / "etc/licet/config.yaml"]


def test_folders_for_licenses_and_keys_are_there_and_roots(deb: Path, rpm: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "files.tar"
        archive.write_bytes(
            subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True).stdout
        )
        with tarfile.open(archive) as opened:
            members = {one.name.strip("./"): one for one in opened.getmembers()}
    for name in ("etc/licet/licenses", "etc/licet/keys"):
        assert (members[name].isdir(), members[name].mode & 0o7777) == (True, 0o755)
        assert f"/{name}" in asked(rpm, "--list")


def test_the_manual_page_is_clean_and_has_every_command(files: Path) -> None:
    page = gzip.decompress((files / "usr/share/man/man8/licet.8.gz").read_bytes())
    shown = subprocess.run(
        ["groff", "-Kutf8", "-man", "-Tutf8", "-ww", "-P-c"], input=page, capture_output=True, check=True
    )
    assert shown.stderr == b""
    text = re.sub(r".\x08", "", shown.stdout.decode())
    for command in ("run", "status", "policy check", "sysdump", "mode"):
        assert f"licet {command}" in text


def test_both_shells_accept_their_completion(files: Path) -> None:
    bash = files / "usr/share/bash-completion/completions/licet"
    subprocess.run(["bash", "-n", bash], check=True)
    assert "complete -o default -F _licet_completion licet" in bash.read_text()
    zsh = (files / "usr/share/zsh/vendor-completions/_licet").read_text()
    assert zsh.startswith("#compdef licet\n")


def test_the_unit_is_one_that_systemd_understands(files: Path) -> None:
    unit = files / "lib/systemd/system/licet.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "/usr/bin/licet is not executable" not in line]
    assert [line for line in complaints if "licet" in line] == []


def test_the_rpm_has_the_same_and_asks_for_its_own_release(rpm: Path, files: Path) -> None:
    assert asked(rpm, "--queryformat", "%{NAME} %{VERSION}-%{RELEASE}") == [
        f"licet {__version__}-1.{RPM_RELEASE}"
    ]
    listed = set(asked(rpm, "--list"))
    for expected in (
        "/opt/licet/bpf/lib/decide.h",
        "/usr/bin/licet",
        "/usr/lib/systemd/system/licet.service",
        "/usr/share/zsh/site-functions/_licet",
    ):
        assert expected in listed
    agent = {f"/{one.relative_to(files)}" for one in (files / "opt/licet/agent").rglob("*.py")}
    assert agent <= listed
    assert "/etc/licet/config.yaml" in asked(rpm, "--configfiles")
    assert {"python3-bcc", "python(abi) = 3.12"} <= set(asked(rpm, "--requires"))


def test_the_scripts_of_the_rpm_are_those_of_the_deb(rpm: Path) -> None:
    scripts = "\n".join(asked(rpm, "--scripts"))
    for name in ("postinst", "prerm", "postrm"):
        assert (ROOT / "packaging/host/scripts" / name).read_text().strip() in scripts


def test_the_same_sources_give_the_same_package(deb: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    (again / ".libraries").symlink_to(packages.BUILT / ".libraries")
    packages.build(ROOT, again, packages.tested_release())
    assert (again / deb.name).read_bytes() == deb.read_bytes()
