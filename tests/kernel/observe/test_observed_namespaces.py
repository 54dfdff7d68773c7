"""Network namespaces, addresses, cgroups and processes of the real kernel."""

from __future__ import annotations

import os
import select
import socket
import threading
from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.license.clock import LicenseClock
from agent.model import Namespace, Network, to_address, to_network
from agent.observe.addresses import cluster_addresses, global_addresses, own_addresses
from agent.observe.addresses_elsewhere import AddressesElsewhere
from agent.observe.cgroup import cgroup_id, directory, find_mount, list_cgroups
from agent.observe.hostfacts import Mentions, gather
from agent.observe.local_routes import own_local_routes
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.observe.route_watch import AddressWatch
from agent.system.boottime import boot_id, clocks
from agent.system.netns import NamespaceGone, own_cookie, run_in_namespace
from tests.fixtures import namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.names import new_name
from tests.fixtures.waiting import wait_for

pytestmark = pytest.mark.root


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def seen(lab_namespace: namespaces.Namespace) -> Namespace:
    (found,) = Namespaces(ProcReader(), [str(lab_namespace.path)]).all()
    return found


def test_every_namespace_is_seen_once_with_a_path_that_opens_it(lab: Lab) -> None:
    lab.run(lab.host, ["sleep", "60"])
    found = Namespaces(ProcReader()).all()
    assert len({one.cookie for one in found}) == len(found)
    by_path = {one.path: one for one in found}
    for namespace in (lab.host, lab.container, lab.remote):
        assert by_path[str(namespace.path)].inode == namespace.path.stat().st_ino
    assert found[0].path == "/proc/self/ns/net"
    assert found[0].cookie == own_cookie()


def test_a_namespace_without_a_name_is_seen_by_its_process(lab: Lab) -> None:
    process = lab.run(lab.host, ["unshare", "--net", "sleep", "60"])
    inode = wait_for(
        lambda: (number := ProcReader().netns_inode(process.pid)) != lab.host.path.stat().st_ino and number,
        "unshare has left the namespace",
    )
    (found,) = [one for one in Namespaces(ProcReader()).all() if one.inode == inode]
    assert found.path == f"/proc/{process.pid}/ns/net"


def test_an_address_that_comes_elsewhere_is_announced_here_with_the_number_of_its_namespace(lab: Lab) -> None:
    """And one that nobody is known by is not."""
    with namespaces.entered(lab.host):
        elsewhere = AddressesElsewhere()
    heard: list[Namespace] = []

    def listen() -> None:
        numbers = elsewhere.wait()
        scope = Namespaces(ProcReader(), [str(lab.host.path), str(lab.container.path), str(lab.remote.path)])
        heard.extend(scope.enter_each(lambda one: elsewhere.number_of(one) in numbers))

    with elsewhere:
        thread = threading.Thread(target=listen)
        thread.start()
        for scope, address in (("link", "10.77.9.8"), ("global", "10.77.9.9")):
            namespaces.ip(
                *("-n", lab.remote.name, "address", "add", f"{address}/32", "dev", "eth0", "scope", scope)
            )
        thread.join(10)
    (found,) = heard
    assert found.inode == lab.remote.path.stat().st_ino
    assert to_address("10.77.9.9") in found.addresses


def test_a_scope_limits_what_is_seen(lab: Lab) -> None:
    scope = [str(lab.container.path), str(lab.host.path), "/run/netns/absent"]
    found = Namespaces(ProcReader(), scope).all()
    assert [one.path for one in found] == sorted(scope[:2])
    assert Namespaces(ProcReader(), []).all() == ()


def test_addresses_of_a_namespace_are_its_global_ones(lab: Lab) -> None:
    assert set(seen(lab.host).addresses) == {
        to_address(text) for text in ("10.77.1.1", "fd77:1::1", "10.77.2.1", "fd77:2::1")
    }


def test_own_addresses_have_link_local_ones_and_no_loopback(lab: Lab) -> None:
    host = seen(lab.host)
    namespaces.ip("-n", lab.host.name, "address", "add", "169.254.7.7/32", "dev", "to-remote")
    namespaces.ip("-n", lab.host.name, "address", "add", "10.99.0.1/32", "dev", "lo")
    own = set(run_in_namespace(host, own_addresses))
    assert {to_address("169.254.7.7"), to_address("10.99.0.1")} <= own
    assert any(address.is_link_local for address in own)
    assert not {to_address("127.0.0.1"), to_address("::1")} & own
    assert to_address("169.254.7.7") not in run_in_namespace(host, global_addresses)


def test_cluster_addresses_of_kube_proxy_are_not_the_hosts(lab: Lab) -> None:
    ip = ("-n", lab.host.name)
    namespaces.ip(*ip, "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "kube-peer")
    namespaces.ip(*ip, "address", "add", "10.96.0.1/32", "dev", "kube-ipvs0")
    namespaces.ip(*ip, "address", "add", "10.98.0.1/32", "dev", "kube-peer")
    own = run_in_namespace(seen(lab.host), own_addresses)
    assert to_address("10.98.0.1") in own
    assert to_address("10.96.0.1") not in own
    assert run_in_namespace(seen(lab.host), cluster_addresses) == (to_address("10.96.0.1"),)
    assert to_network("10.96.0.1/32") not in local_routes(lab)


def local_routes(lab: Lab) -> tuple[Network, ...]:
    return run_in_namespace(seen(lab.host), lambda: own_local_routes(own_addresses()))


def test_local_routes_are_those_that_addresses_do_not_tell_of(lab: Lab) -> None:
    inside = ("-n", lab.host.name)
    assert local_routes(lab) == ()
    for destination in ("192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "169.254.9.0/24"):
        namespaces.ip(*inside, "route", "add", "local", destination, "dev", "lo")
    namespaces.ip(*inside, "route", "add", "10.61.0.0/16", "dev", "lo")
    namespaces.ip(*inside, "route", "add", "blackhole", "10.62.0.0/16")
    namespaces.ip(*inside, "route", "add", "local", "10.63.0.0/16", "dev", "lo", "table", "100")
    namespaces.ip(*inside, "address", "add", "10.64.0.1/24", "dev", "lo")
    # an address on lo brings all of its network along
    expected = ("10.64.0.0/24", "169.254.9.0/24", "192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32")
    assert local_routes(lab) == tuple(map(to_network, expected))
    namespaces.ip(*inside, "route", "del", "local", "192.0.2.0/24", "dev", "lo")
    assert to_network("192.0.2.0/24") not in local_routes(lab)


def test_a_default_route_that_is_local_is_everything(lab: Lab) -> None:
    namespaces.ip("-n", lab.host.name, "route", "add", "local", "0.0.0.0/0", "dev", "lo")
    assert local_routes(lab) == (to_network("0.0.0.0/0"),)


def test_a_peers_address_is_not_ours(lab: Lab) -> None:
    ip = ("-n", lab.host.name, "address", "add")
    namespaces.ip(*ip, "10.50.0.1", "peer", "10.50.0.2/32", "dev", "to-remote")
    namespaces.ip(*ip, "fd50::1", "peer", "fd50::2/128", "dev", "to-remote", "nodad")
    own = run_in_namespace(seen(lab.host), own_addresses)
    assert {to_address("10.50.0.1"), to_address("fd50::1")} <= set(own)
    assert not {to_address("10.50.0.2"), to_address("fd50::2")} & set(own)


def test_work_runs_inside_and_the_caller_stays_where_it_was(lab: Lab) -> None:
    host = seen(lab.host)
    before, threads = here(), threading.active_count()
    assert run_in_namespace(host, here) == host.inode
    assert run_in_namespace(host, own_cookie) == host.cookie
    assert (here(), threading.active_count()) == (before, threads)


def test_a_socket_made_inside_stays_inside(lab: Lab) -> None:
    host = seen(lab.host)
    with run_in_namespace(host, lambda: socket.create_server(("10.77.1.1", 8080))) as server:
        assert server.getsockname() == ("10.77.1.1", 8080)


def test_what_goes_wrong_inside_is_the_callers_to_handle(lab: Lab) -> None:
    with pytest.raises(ZeroDivisionError):
        run_in_namespace(seen(lab.host), lambda: 1 / 0)


def test_the_agents_own_namespace_is_entered_without_a_thread() -> None:
    own = Namespaces(ProcReader()).own()
    assert run_in_namespace(own, threading.get_ident) == threading.get_ident()


def test_a_removed_namespace_is_gone() -> None:
    made = namespaces.Namespace(new_name(), "", "")
    namespaces.create(made)
    try:
        found = seen(made)
    finally:
        namespaces.remove(made.name)
    with pytest.raises(NamespaceGone, match=made.name):
        run_in_namespace(found, here)


def test_another_namespace_of_the_same_name_is_not_the_old_one() -> None:
    made = namespaces.Namespace(new_name(), "", "")
    namespaces.create(made)
    try:
        found = seen(made)
        namespaces.remove(made.name)
        namespaces.create(made)
        with pytest.raises(NamespaceGone, match="another network namespace"):
            run_in_namespace(found, here)
    finally:
        namespaces.remove(made.name)


def test_a_path_that_is_no_namespace_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelError, match="file is not a network namespace"):
        run_in_namespace(Namespace(cookie=1, inode=1, path=str(tmp_path / "file")), here)


def test_a_changed_address_wakes_the_watch_once(lab: Lab) -> None:
    with run_in_namespace(seen(lab.host), AddressWatch) as watch:
        assert not watch.changed()
        for verb in ("add", "delete"):
            for address in ("10.60.0.1/32", "fd60::1/128"):
                namespaces.ip("-n", lab.host.name, "address", verb, address, "dev", "lo")
                assert select.select([watch.fileno()], [], [], 5)[0]
                wait_for(watch.changed, "the change is announced")
        for destination in ("192.0.2.0/24", "2001:db8::/32"):
            for verb in ("add", "del"):
                route = ("-n", lab.host.name, "route", verb)
                namespaces.ip(*route, destination, "dev", "to-remote")
                assert not watch.changed(), "a route elsewhere"
                namespaces.ip(*route, "local", destination, "dev", "lo", "table", "100")
                wait_for(watch.changed, "the change is announced")
        namespaces.ip("-n", lab.host.name, "link", "set", "lo", "mtu", "9000")
        assert not watch.changed()


def test_lost_announcements_are_a_change(lab: Lab) -> None:
    with run_in_namespace(seen(lab.host), AddressWatch) as watch:
        with socket.socket(fileno=os.dup(watch.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for verb in ("add", "delete") * 20:
            namespaces.ip("-n", lab.host.name, "address", verb, "10.60.0.1/32", "dev", "lo")
        assert watch.changed()
        assert not watch.changed()


def test_cgroups_are_known_by_the_id_the_kernel_uses(lab: Lab) -> None:
    mount = find_mount()
    made = lab.cgroup("billing.service/worker")
    found = list_cgroups(mount)
    assert found[made] == cgroup_id(mount, made)
    Path(directory(mount, made)).rmdir()
    assert cgroup_id(mount, made) == 0


def test_a_process_is_named_with_its_ids_cgroup_and_namespace(lab: Lab) -> None:
    process = lab.run(
        lab.container, ["sleep", "60"], cgroup="billing.service", uid=1234, gid=2345, groups=[7, 3456]
    )
    reader = ProcReader(cgroup_mount=find_mount())
    wait_for(lambda: reader.exe(process.pid).endswith("sleep"), "sleep is executed")
    container = seen(lab.container)
    found = reader.process(process.pid, {container.inode: container.cookie})
    assert found is not None
    assert (found.uid, found.gid, found.gids) == (1234, 2345, (7, 2345, 3456))
    assert (found.cgroup, found.unit) == (f"{lab.scope}/billing.service", "billing.service")
    assert found.cgroup_id == list_cgroups(find_mount())[found.cgroup]
    assert (found.args, found.comm) == (("sleep", "60"), "sleep")
    assert found.netns == container.cookie


def test_a_process_that_runs_a_deleted_program_keeps_its_path(lab: Lab) -> None:
    program = lab.executable("bin/short-lived", Path("/usr/bin/sleep").resolve())
    process = lab.run(lab.host, [program, "60"])
    reader = ProcReader()
    wait_for(lambda: reader.exe(process.pid) == str(program), "the program is executed")
    program.unlink()
    assert reader.exe(process.pid) == str(program)


def test_names_in_a_mount_namespace_of_a_user_prove_nothing(lab: Lab) -> None:
    reader = ProcReader()
    assert reader.names_are_trusted(os.getpid())
    privileged = lab.run(lab.host, ["unshare", "--mount", "sleep", "60"])
    user = lab.run(lab.host, ["unshare", "--user", "--mount", "sleep", "60"], uid=1234)
    for process in (privileged, user):
        wait_for(lambda process=process: reader.exe(process.pid).endswith("sleep"), "sleep is executed")
    assert reader.names_are_trusted(privileged.pid)
    assert not reader.names_are_trusted(user.pid)


def test_host_facts_are_those_of_this_host(lab: Lab) -> None:
    reader = ProcReader()
    program = lab.executable("opt/bin/app", Path("/usr/bin/sleep").resolve())
    link = lab.directory / "current"
    link.symlink_to(program)
    clock = LicenseClock.started(boot_id(), *clocks())
    facts = gather(
        Mentions(
            users=frozenset({"root", "nobody-of-this-name"}),
            groups=frozenset({"root"}),
            executables=frozenset({str(link), f"{lab.directory}/opt/*/app"}),
        ),
        reader=reader,
        namespaces=Namespaces(reader),
        cgroup_mount=find_mount(),
        hash_seed=99,
        clock=clock,
        known_executables=["/named/by/the/kernel"],
    )
    assert facts.host_netns == own_cookie()
    assert facts.addresses == own_addresses()
    assert facts.host_netns not in {one.cookie for one in facts.namespaces}
    assert {str(one.path) for one in (lab.host, lab.container)} <= {one.path for one in facts.namespaces}
    assert (facts.users, facts.groups, facts.hash_seed) == ({"root": 0}, {"root": 0}, 99)
    assert {str(program), "/named/by/the/kernel", os.path.realpath("/proc/self/exe")} <= facts.executables
    assert facts.realpaths[str(link)] == str(program)
    assert facts.cgroups[lab.scope] == cgroup_id(find_mount(), lab.scope)
    assert facts.clock_synced
    assert facts.wall_offset_ns == facts.boot_offset_ns == clock.offset_ns
