"""What only user space can tell of a program is told as it starts: whether a glob of several stars takes it,
and the addresses of its network namespace."""

from __future__ import annotations

import os
from pathlib import Path

from tests.fixtures import namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.names import new_name
from tests.fixtures.namespaces import Link, Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, told
from tests.fixtures.waiting import wait_for

PORT = 7351
STARTS = 20
POLICY = """\
version: 1
services:
  db: {{product: acme, ports: [{{port: 7351, class: internal}}]}}
principals:
  who: [{selector}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, principals: [who]}}]}}
enforcement: {{default: enforce}}
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 7351)).close()"
"""It takes an interpreter some 10 ms to get there, as it does any program of this kind."""


def hears_of_starts(agent: RunningAgent) -> bool:
    """Of a raw tracepoint there is no sign in the pins: the daemon alone holds it."""
    for entry in Path(f"/proc/{agent.pid}/fd").iterdir():
        try:
            if os.readlink(entry) == "anon_inode:bpf_link" and "raw_tracepoint" in _link(
                agent.pid, entry.name
            ):
                return True
        except FileNotFoundError:
            continue
    return False


def _link(pid: int, number: str) -> str:
    return Path(f"/proc/{pid}/fdinfo/{number}").read_text()


def test_a_program_under_a_glob_of_several_stars_is_named_before_it_connects(lab: Lab) -> None:
    lab.serve(lab.host, "127.0.0.1", PORT)
    interpreter = Path(os.path.realpath("/usr/bin/python3"))
    selector = f"{{exe: {lab.directory}/lic*/p?thon-*}}"
    with lab.agent(POLICY.format(selector=selector)) as agent:
        wait_for(lambda: hears_of_starts(agent), "the tracepoint is attached", timeout_s=60)
        for number in range(STARTS):
            for folder, code in (("licensed", 0), ("other", 1)):
                program = lab.executable(f"{folder}/python-{number}", interpreter)
                done = lab.call(lab.host, [program, "-c", CONNECT, "127.0.0.1"], check=False)
                assert done.returncode == code, (folder, number, done.stderr)
        assert connections(agent, "db") == {("loopback", "allowed"): STARTS, ("loopback", "denied"): STARTS}


def test_a_namespace_is_known_as_soon_as_a_program_starts_there(lab: Lab) -> None:
    """Not only at the next look, which is an hour away."""
    place = Namespace(new_name(), "10.79.3.2", "fd79:3::2")
    lab.serve(lab.host, "0.0.0.0", PORT)
    settings = {
        "scope": {"namespaces": [str(each.path) for each in (lab.host, lab.container, place)]},
        "intervals": {"reconcile": 3600},
    }

    def is_let_in() -> bool:
        argv = ["/usr/bin/python3", "-c", CONNECT, lab.host.v4]
        return lab.call(place, argv, check=False).returncode == 0

    namespaces.ip("-n", lab.host.name, "link", "add", "bridge", "type", "bridge")
    namespaces.ip("-n", lab.host.name, "address", "add", "10.79.3.1/24", "dev", "bridge")
    namespaces.ip("-n", lab.host.name, "link", "set", "bridge", "up")
    try:
        with lab.agent(POLICY.format(selector="{cidr: 10.79.3.0/24}"), settings) as agent:
            wait_for(lambda: hears_of_starts(agent), "the tracepoint is attached", timeout_s=60)
            namespaces.create(place)
            namespaces.join(Link(lab.host, "later", ()), Link(place, "eth0", ("10.79.3.2/24",)))
            namespaces.ip("-n", lab.host.name, "link", "set", "later", "master", "bridge")
            namespaces.route_by_default(place, "10.79.3.1")
            wait_for(is_let_in, "it is judged by its addresses")
    finally:
        namespaces.remove(place.name)


def test_nothing_is_attached_where_the_kernel_can_tell_by_itself(lab: Lab) -> None:
    with lab.agent(POLICY.format(selector="{exe: /opt/*/bin/server}, {uid: 5}")) as agent:
        agent.wait_until_it_stands_by()
        assert not hears_of_starts(agent)
        agent.set_policy(POLICY.format(selector="{exe: '/opt/**/server'}"))
        wait_for(lambda: hears_of_starts(agent), "the tracepoint is attached")
        agent.set_policy(POLICY.format(selector="{exe: /opt/*/bin/server}"))
        wait_for(lambda: not hears_of_starts(agent), "it is let go of")


END = ["7351", "--connections", "1"]
MOUNTED_OVER = f'mount --bind "$1" "$2" && exec "$2" "$3" {" ".join(END)}'


def test_names_of_ones_own_making_are_told_though_they_were_met_at_exec(lab: Lab) -> None:
    lab.serve(lab.host, "127.0.0.1", PORT)
    selector = f"{{exe: {lab.directory}/lic*/p?thon-*}}"
    with lab.agent(POLICY.format(selector=selector)) as agent:
        wait_for(lambda: hears_of_starts(agent), "the tracepoint is attached", timeout_s=60)
        for number in range(STARTS):
            own, licensed = lab.executable(f"own-{number}"), lab.executable(f"licensed/python-{number}")
            script = ["bash", "-c", MOUNTED_OVER, "bash", own, licensed, "127.0.0.1"]
            lab.call(lab.host, ["unshare", "-Urm", *script], uid=1499)
            event = told(agent, {"type": "violation", "consumer.args": [str(licensed), *script[-1:], *END]})
            assert (event["consumer"]["exe"], event["consumer"]["exe_untrusted"]) == (str(licensed), True)
