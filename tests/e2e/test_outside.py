"""exe, user and group speak of processes outside containers: real containers, namespaces and root
directories, made by root and by users, each with a program of its own at the licensed path."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import processes
from tests.fixtures.crun import STARTS_MS, Runtime
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import since, told, violations
from tests.fixtures.waiting import wait_for

EXE_FD = Path(__file__).parents[1] / "fixtures" / "exe_fd.c"
FIRST_PORT = 7600
SERVICES = ("by-exe", "by-user", "by-both", "exe-anywhere", "user-anywhere", "banned")
USER, ROOTS, BANNED, BANNED_GROUP, MEMBER = 1601, 0, 1605, 1606, 1607
IDS_OF_BANNED, IDS_OF_MEMBER, IDS_OF_NOBODY = 165536, 231072, 400000
"""The first of the 65,536 that each was given."""
PLAIN = f"setpriv --reuid={USER} --regid={USER} --clear-groups --"


def port_of(service: str) -> int:
    return FIRST_PORT + SERVICES.index(service)


def policy(tool: Path) -> str:
    services = "".join(
        f"  {name}: {{product: acme, on_unresolved: deny, "
        f"ports: [{{port: {port_of(name)}, class: internal}}]}}\n"
        for name in SERVICES
    )
    return f"""\
version: 1
services:
{services}principals:
  by-exe: [{{exe: {tool}}}]
  by-user: [{{uid: [{USER}, {ROOTS}]}}]
  by-both: [{{exe: {tool}, uid: {USER}}}]
  exe-anywhere: [{{exe: {tool}}}, {{exe: {tool}, container: "*"}}]
  user-anywhere: [{{uid: [{USER}, {ROOTS}]}}, {{uid: [{USER}, {ROOTS}], container: "*"}}]
  banned: [{{uid: {BANNED}}}, {{gid: {BANNED_GROUP}}}]
licenses:
  - id: acme
    product: acme
    entitlements:
      - {{id: e0, services: [by-exe], principals: [by-exe]}}
      - {{id: e1, services: [by-user], principals: [by-user]}}
      - {{id: e2, services: [exe-anywhere], principals: [exe-anywhere]}}
      - {{id: e3, services: [user-anywhere], principals: [user-anywhere]}}
      - {{id: e5, services: [by-both], principals: [by-both]}}
      - {{id: e4, services: [banned], principals: [anyone]}}
restrictions: [{{exclude: banned, target: banned}}]
"""


@pytest.fixture(scope="module")
def runtime(shared_lab: Lab) -> Runtime:
    return Runtime(shared_lab)


@pytest.fixture(scope="module")
def tool(shared_lab: Lab, runtime: Runtime) -> Path:
    """The licensed program; in the root directory of containers lies another one at the same path."""
    program = shared_lab.executable("lit/tool", runtime.root / "load")
    jailed = jail(shared_lab) / str(program).lstrip("/")
    for copy in (jailed, runtime.root / str(program).lstrip("/")):
        copy.parent.mkdir(parents=True)
        shutil.copy2(program, copy)
    return program


def jail(lab: Lab) -> Path:
    return lab.directory / "jail"


@pytest.fixture(scope="module")
def etc(shared_lab: Lab) -> Path:
    """Accounts of the host, as the agent sees them."""
    folder = shared_lab.directory / "etc"
    folder.mkdir()
    users = {"banned": BANNED, "member": MEMBER}
    (folder / "passwd").write_text(
        "".join(f"{name}:x:{uid}:{uid}::/:/bin/sh\n" for name, uid in users.items())
    )
    (folder / "group").write_text(f"banned:x:{BANNED_GROUP}:member\n")
    (folder / "subuid").write_text(f"banned:{IDS_OF_BANNED}:65536\nmember:{IDS_OF_MEMBER}:65536\n")
    return folder


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, runtime: Runtime, tool: Path, etc: Path) -> Iterator[RunningAgent]:
    for service in SERVICES:
        shared_lab.serve(shared_lab.host, shared_lab.host.v4, port_of(service))
    settings = {"containers": runtime.settings, "paths": {"etc": str(etc)}}
    with shared_lab.agent(policy(tool), settings=settings) as running:
        yield running


WAYS = {
    "on the host": ('exec "$@"', "by-exe by-user"),
    "in a mount namespace of root's": (f'exec unshare -m {PLAIN} "$@"', "by-exe by-user"),
    "with a mount of root's over its directory": (
        'exec unshare -m sh -c \'cp "$1" "$JAIL/copy" && mount -t tmpfs none "${1%/*}" && '
        'cp "$JAIL/copy" "$1" && exec "$@"\' sh "$@"',
        "by-exe by-user",
    ),
    "in a pid namespace of root's": ('exec unshare -p -f --mount-proc "$@"', ""),
    "in one, as a user": (f'exec unshare -p -f {PLAIN} "$@"', ""),
    "in a user's pid namespace": (f'exec {PLAIN} unshare -Urpf "$@"', "by-exe by-user"),
    "in a user's pid namespace in one of root's": (f'exec unshare -p -f {PLAIN} unshare -Urpf "$@"', ""),
    "with a root directory of root's": (
        'cd "$JAIL" && exec unshare -m sh -c \'mount --bind . . && cd "$JAIL" && mkdir -p old && '
        'pivot_root . old && exec "$@"\' sh "$@"',
        "by-user",
    ),
    "with one that was moved over the host's": (
        'exec unshare -m sh -c \'mount --bind "$JAIL" "$JAIL" && cd "$JAIL" && mount --move . / && '
        'exec chroot . "$@"\' sh "$@"',
        "by-user",
    ),
    "in a chroot, from its own file": ('exec chroot "$JAIL" "$@"', "by-user"),
    "from memory": (
        'exec "$PYTHON" -c \'import os, sys; fd = os.memfd_create(sys.argv[1]); '
        'os.write(fd, open(sys.argv[1], "rb").read()); os.execv(f"/proc/self/fd/{fd}", sys.argv[1:])\' "$@"',
        "by-user",
    ),
    "from a file system that is mounted no more": (
        'mkdir -p "$JAIL/gone" && exec unshare -m sh -c \'mount -t tmpfs none "$JAIL/gone" && '
        'cp "$1" "$JAIL/gone/tool" && exec 7<"$JAIL/gone/tool" && umount -l "$JAIL/gone" && '
        'exec "$PYTHON" -c "import os, sys; os.execv(\\"/proc/self/fd/7\\", sys.argv[1:])" "$@"\' sh "$@"',
        "by-user",
    ),
}
"""How a program is started, as a shell does it, and which of by-exe and by-user it is licensed for then."""


@pytest.mark.parametrize("way", WAYS)
def test_a_program_is_licensed_where_it_is_the_hosts(
    shared_lab: Lab, agent: RunningAgent, tool: Path, way: str
) -> None:
    script, licensed = WAYS[way]
    for service in ("by-exe", "by-user"):
        expected = "allowed" if service in licensed.split() else "denied"
        assert decided(shared_lab, agent, tool, service, script) == {expected: 1}, service


def test_the_event_says_that_a_consumer_is_in_a_pid_namespace(shared_lab: Lab, agent: RunningAgent) -> None:
    host = shared_lab.host
    consumer = shared_lab.run(
        host,
        ["unshare", "-pf", processes.PYTHON, "-Ic", HOLD, host.v4, str(port_of("by-user"))],
        stdin=subprocess.PIPE,
    )
    said = told(
        agent,
        {"type": "violation", "service": "by-user", "consumer.exe": str(Path(processes.PYTHON).resolve())},
    )
    assert said["consumer"]["in_pid_namespace"]
    assert "container" not in said["consumer"]
    processes.end(consumer)


HOLD = """
import socket, sys
held = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sys.stdin.read()
"""


def test_in_a_pid_namespace_of_roots_it_is_licensed_where_the_policy_says_container(
    shared_lab: Lab, agent: RunningAgent, tool: Path
) -> None:
    script = WAYS["in a pid namespace of root's"][0]
    for service in ("exe-anywhere", "user-anywhere"):
        assert decided(shared_lab, agent, tool, service, script) == {"allowed": 1}, service
        assert decided(shared_lab, agent, tool, service, WAYS["on the host"][0]) == {"allowed": 1}, service


def test_a_process_whose_children_will_be_in_a_pid_namespace_is_in_none(
    shared_lab: Lab, agent: RunningAgent, tool: Path
) -> None:
    connect = "import socket, sys; socket.create_connection((sys.argv[2], int(sys.argv[3])))"
    script = f'exec unshare -p "$PYTHON" -c \'{connect}\' "$@"'
    assert decided(shared_lab, agent, tool, "by-user", script) == {"allowed": 1}


def test_any_user_can_pass_for_an_executable_and_nobody_for_a_user(
    shared_lab: Lab, agent: RunningAgent, tool: Path
) -> None:
    """prctl(PR_SET_MM_MAP, exe_fd): not covered, as docs/enforcement.md says of `exe`."""
    taker = shared_lab.directory / "exe_fd"
    build = ["gcc", "-std=gnu11", "-O2", "-static", "-no-pie", "-o", str(taker), str(EXE_FD)]
    subprocess.run(build, check=True)
    for uid, decisions in (
        (1699, ("allowed", "denied", "denied")),
        (USER, ("allowed", "allowed", "allowed")),
    ):
        for service, decision in zip(("by-exe", "by-user", "by-both"), decisions, strict=True):
            script = f'exec setpriv --reuid={uid} --regid={uid} --clear-groups -- {taker} "$1" "$2" "$3"'
            assert decided(shared_lab, agent, tool, service, script) == {decision: 1}, (uid, service)


def test_an_exclusion_by_user_holds_in_containers_and_in_user_namespaces(
    shared_lab: Lab, agent: RunningAgent, tool: Path
) -> None:
    plain = PLAIN.replace(str(USER), str(BANNED))
    for way in ("", "unshare -p -f", "unshare -m"):
        assert decided(shared_lab, agent, tool, "banned", f'exec {way} {plain} "$@"') == {"denied": 1}, way
    assert violations(agent, "banned").keys() == {"excluded"}
    assert decided(shared_lab, agent, tool, "banned", f'exec {PLAIN} "$@"') == {"allowed": 1}


SUBORDINATE = """
import ctypes, os, shutil, sys

def become(uid, groups):
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)

way, (uid, group, given), argv = sys.argv[1], map(int, sys.argv[2:5]), sys.argv[5:]
ready, mapped = os.pipe(), os.pipe()
child = os.fork()
if not child:
    become(uid, [group])
    assert not ctypes.CDLL(None).unshare(0x10000000)
    os.write(ready[1], b"x")
    os.read(mapped[0], 1)
    if way == "groups":
        os.setgroups([])
        os.execv(argv[0], argv)
    become(1, [])
    shutil.copy(argv[0], os.environ["DROP"])
    os.chmod(os.environ["DROP"], 0o6755)
    os._exit(0)
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):  # as newuidmap and newgidmap write them
    with open(f"/proc/{child}/{name}", "w") as ids:
        ids.write(f"0 {uid} 1\\n1 {given} 1\\n")
os.write(mapped[1], b"x")
assert not os.waitpid(child, 0)[1]
if way == "file":
    become(uid, [])
    os.execv(os.environ["DROP"], argv)
"""


@pytest.fixture(scope="module")
def subordinate(shared_lab: Lab, agent: RunningAgent, tool: Path) -> Callable[[str, int, int], str]:
    """What becomes of an attempt that `uid`, of the excluded group, makes by a way of SUBORDINATE's, with a
    subordinate id: a file that it leaves set-user-ID is run on the host."""
    folder = shared_lab.directory / "drop"
    folder.mkdir()
    folder.chmod(0o777)
    program = shared_lab.directory / "subordinate.py"
    program.write_text(SUBORDINATE)

    def attempt(way: str, uid: int, given: int) -> str:
        left = folder / f"{uid}-{given}"
        left.unlink(missing_ok=True)
        script = f'DROP={left} exec "$PYTHON" {program} {way} {uid} {BANNED_GROUP} {given} "$@"'
        ((decision, count),) = decided(shared_lab, agent, tool, "banned", script).items()
        assert count == 1
        return decision

    return attempt


def test_subordinate_ids_lead_nobody_out_of_an_exclusion(
    shared_lab: Lab, agent: RunningAgent, tool: Path, subordinate: Callable[[str, int, int], str]
) -> None:
    for uid in (BANNED, MEMBER):
        started = f'exec setpriv --reuid={uid} --regid={uid} --groups={BANNED_GROUP} -- "$@"'
        assert decided(shared_lab, agent, tool, "banned", started) == {"denied": 1}
        assert subordinate("groups", uid, IDS_OF_NOBODY) == "denied", "owns the namespace"
        for given in (IDS_OF_BANNED, IDS_OF_BANNED + 65535, IDS_OF_MEMBER):
            assert subordinate("file", uid, given) == "denied", given
    assert violations(agent, "banned").keys() == {"excluded"}


def test_who_was_given_which_ids_is_followed(
    agent: RunningAgent, etc: Path, subordinate: Callable[[str, int, int], str]
) -> None:
    before, fresh = (etc / "subuid").read_text(), etc / "subuid.new"
    assert subordinate("file", BANNED, IDS_OF_NOBODY) == "allowed"
    for text, decision in ((f"{before}{BANNED}:{IDS_OF_NOBODY}:1\n", "denied"), (before, "allowed")):
        fresh.write_text(text)
        fresh.replace(etc / "subuid")
        wait_for(lambda decision=decision: subordinate("file", BANNED, IDS_OF_NOBODY) == decision, decision)


def test_ids_and_members_that_no_file_knows_lead_out_of_an_exclusion_as_the_docs_say(
    subordinate: Callable[[str, int, int], str],
) -> None:
    """Not covered (docs/enforcement.md)."""
    assert subordinate("file", BANNED, IDS_OF_NOBODY) == "allowed", "given by hand, or by a name service"
    assert subordinate("groups", USER, IDS_OF_NOBODY) == "allowed", "of the group, but no member of it"


@pytest.mark.skipif(not shutil.which("crun"), reason="crun is not installed")
@pytest.mark.parametrize("cgroup", ["box", f"docker-{'ab' * 32}.scope"])
def test_a_container_is_licensed_by_exe_and_user_only_where_the_policy_says_container(
    shared_lab: Lab, agent: RunningAgent, runtime: Runtime, tool: Path, cgroup: str
) -> None:
    for service in ("by-exe", "by-user", "exe-anywhere", "user-anywhere"):
        before = connections_of(agent, service)
        command = [str(tool), shared_lab.host.v4, str(port_of(service)), "--after", str(STARTS_MS)]
        number = f"{'ab' * 32}" if cgroup.startswith("docker") else cgroup
        made = runtime.call(number, command, cgroup=cgroup, by_hand=False)
        assert made["ok"] == 1
        decisions = {decision for _, decision in since(before, agent, service)}
        assert decisions == {"allowed" if service.endswith("anywhere") else "denied"}, service


def test_who_is_meant_no_more_is_named_by_the_check_and_before_enforcing(
    shared_lab: Lab, agent: RunningAgent, tool: Path
) -> None:
    argv = ["unshare", "-p", "-f", tool, "--serve", shared_lab.host.v4, str(FIRST_PORT + 50)]
    server = shared_lab.run(shared_lab.host, argv)
    processes.wait_until_listening(server, FIRST_PORT + 50)
    said = f"principal 'by-exe' matches only processes outside containers, so not {tool}"
    for output in (agent.licet("policy", "check").stdout, agent.licet("mode", "enforce", check=False).stderr):
        lines = " ".join(output.split())
        assert said in lines
        assert 'add container: "*"' in lines
        assert "principal 'exe-anywhere' matches only" not in lines
    processes.end(server)


def connections_of(agent: RunningAgent, service: str) -> Any:
    return since({}, agent, service)


def decided(lab: Lab, agent: RunningAgent, tool: Path, service: str, script: str) -> dict[str, float]:
    before = connections_of(agent, service)
    argv = ["sh", "-ec", script, "sh", str(tool), lab.host.v4, str(port_of(service)), "--connections", "1"]
    environment = {
        "JAIL": str(jail(lab)),
        "PYTHON": "/usr/bin/python3",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    lab.call(lab.host, argv, env=environment)
    found: dict[str, float] = {}
    for (_, decision), count in since(before, agent, service).items():
        found[decision] = found.get(decision, 0) + count
    return found
