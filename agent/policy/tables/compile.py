"""Policy → Tables: what the kernel is given, and what the daemon needs for names that arrive later.

The meaning of the tables is in `tables`; of a clause, in `clauses`; which holds with what, in `index`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from agent.model import (
    Address,
    Container,
    HostFacts,
    Network,
    PortClass,
    Protocol,
    Target,
    show_network,
)
from agent.policy.findings import policy_errors
from agent.policy.tables.clauses import Clause, policy_clauses
from agent.policy.tables.container_homes import container_homes
from agent.policy.tables.grants import PlannedGrant, planned_grants
from agent.policy.tables.host_warnings import host_warnings
from agent.policy.tables.ids import Ids
from agent.policy.tables.index import Index, index_clauses
from agent.policy.tables.shape import (
    DELIVERED,
    GIDS_IN_SET,
    LISTED_GROUPS,
    MAX_PATH_COMPONENTS,
    MAX_PLACES,
    MAX_SETS,
    MEMBER_CONTAINER,
    MEMBER_UNSURE,
    NO_BOOT_NS,
    NO_GID,
    Candidate,
    Dimension,
    Grant,
    Numbered,
    SetId,
    Tables,
    TargetKey,
    TargetRow,
    empty_tables,
)
from agent.policy.terms.cgroups import NOTHING_KNOWN, Ground, cgroup_name, container_in, ground_of
from agent.policy.terms.hashing import path_hash, shape_hash, string_hash, template_hash
from agent.policy.terms.networks import (
    LOOPBACK,
    UNSPECIFIED,
    is_network_per_namespace,
    is_per_namespace,
    without_mapped,
)
from agent.policy.terms.paths import components
from agent.policy.terms.ports import pieces
from agent.policy.values import Finding, Place, Policy, Port, Service, Window

NO_EXECUTABLE = 0
UNTRUSTED_EXECUTABLE = 1
"""Values of members[EXE, …] that are no hash; see tables."""


@dataclass(frozen=True, slots=True)
class Compiled:
    tables: Tables
    warnings: tuple[Finding, ...] = ()
    clauses: tuple[Clause, ...] = ()
    index: Index = field(default_factory=lambda: index_clauses((), HostFacts(0, ())))
    grants: Mapping[int, PlannedGrant] = field(default_factory=dict)
    """By grant id: the rule behind it, with its place."""


def compile_policy(policy: Policy | None, facts: HostFacts, ids: Ids) -> Compiled:
    """The same policy, facts and ids give the same tables. `ids` learns new targets and grants.

    Raises PolicyErrors where the combination is too large for the kernel's maps."""
    if policy is None:
        return Compiled(empty_tables(facts.hash_seed))
    clauses = policy_clauses(policy)
    index = index_clauses(clauses, facts)
    sets = _Sets(index)
    members = {key: sets.id_of(bits) for key, bits in _members(index, facts)}
    for key, bits, flags in _cgroups(index, facts):
        members[key] = sets.id_of(bits) | flags
    members.update(_host_root(facts))
    members.update(((Dimension.EXE_SHAPE, n), shape.word) for n, shape in enumerate(index.shapes))
    sources = {network: sets.id_of(bits | index.anyone) for network, bits in index.sources.items()}
    subordinates = {key: sets.id_of(bits) for key, bits in index.subordinates.items()}
    grants: dict[int, PlannedGrant] = {}
    rows = _rows(policy, facts, ids, index, sets, grants)
    numbers = _numbers(policy)
    targets, overlaps = _targets(policy, facts, ids, numbers)
    owners = _owner_rows(policy, rows, index, sets)
    sets.check(policy)
    tables = Tables(
        seed=facts.hash_seed,
        targets=targets,
        rows=rows,
        members=members,
        sources=sources,
        sets=sets.all,
        grants={
            number: Grant(number, plan.license.id, plan.entitlement.id, plan.principal, plan.target)
            for number, plan in grants.items()
        },
        owners=owners,
        elsewhere=frozenset((facts.host_netns, address) for address in facts.elsewhere),
        ground=ground_of(facts),
        subordinates=subordinates,
        numbers=numbers,
    )
    warnings = (*policy.warnings, *host_warnings(policy, facts), *overlaps)
    return Compiled(tables, warnings, tuple(clauses), index, grants)


def member_for_executable(compiled: Compiled, path: str) -> int:
    """The set (not its id) for members[EXE, path_hash(path)], of a name that has become known."""
    return compiled.index.executable(path)


def member_for_cgroup(
    compiled: Compiled, path: str, container: Container | None = None, ground: Ground = NOTHING_KNOWN
) -> tuple[int, int]:
    """The set for members[CGROUP, id] of a cgroup made at `path`, and its MEMBER_FLAGS."""
    return compiled.index.cgroup(path, container, ground), _flags(compiled.index, container)


def member_for_netns(compiled: Compiled, addresses: Iterable[Address]) -> int:
    """The set for members[NETNS, cookie] of another namespace of this host, by its addresses."""
    return compiled.index.netns(addresses)


class _Sets:
    """Each distinct set once, by number; those with a fixed number first."""

    def __init__(self, index: Index) -> None:
        fixed = [0] * SetId.FIRST_FREE
        fixed[SetId.MISS + Dimension.EXE] = index.silent[Dimension.EXE] | index.open
        for dimension in (Dimension.UID, Dimension.GID, Dimension.CGROUP):
            fixed[SetId.MISS + dimension] = index.silent[dimension]
        # An unknown namespace may have any address.
        fixed[SetId.MISS + Dimension.NETNS] = index.everything
        fixed[SetId.MISS_SOURCE] = index.anyone
        fixed[SetId.ALL] = index.everything
        fixed[SetId.IN_CONTAINER] = index.everything & ~index.confined
        fixed[SetId.ELSEWHERE] = index.everything & ~index.confined_exe
        fixed[SetId.ANY_CONTAINER] = index.any_container
        fixed[SetId.OWNED] = index.owned
        fixed[SetId.SUBORDINATE] = index.subordinate
        for mask in range(SetId.FIRST_FREE - SetId.CERTAIN):
            fixed[SetId.CERTAIN + mask] = index.certain(mask)
        self._sets = fixed
        self._ids = {0: int(SetId.EMPTY)}
        self._lists: dict[tuple[int, ...], int] = {}

    def id_of(self, bits: int) -> int:
        number = self._ids.setdefault(bits, len(self._sets))
        if number == len(self._sets):
            self._sets.append(bits)
        return number

    def list_of(self, gids: Sequence[int]) -> int:
        """Number of the first of the two sets that hold them, at most 64."""
        filled = (*gids, *[NO_GID] * (LISTED_GROUPS - len(gids)))
        number = self._lists.setdefault(filled, len(self._sets))
        if number == len(self._sets):
            for first in range(0, LISTED_GROUPS, GIDS_IN_SET):
                part = filled[first : first + GIDS_IN_SET]
                self._sets.append(sum(gid << 32 * place for place, gid in enumerate(part)))
        return number

    def __getitem__(self, number: int) -> int:
        return self._sets[number]

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(self._sets)

    def check(self, policy: Policy) -> None:
        if len(self._sets) > MAX_SETS:
            reason = f"{len(self._sets)} different combinations of selectors, {MAX_SETS} are the most"
            place = Place(policy.files[0] if policy.files else "policy")
            raise policy_errors([Finding(place, reason, "fewer overlapping CIDRs or shared executables")])


def _members(index: Index, facts: HostFacts) -> Iterator[tuple[tuple[Dimension, int], int]]:
    seed = facts.hash_seed
    for none in (NO_EXECUTABLE, UNTRUSTED_EXECUTABLE):
        yield (Dimension.EXE, none), index.silent[Dimension.EXE]
    # Where no clause needs a name to tell, the sets for a miss say the same as a name would.
    names = set(index.literals) | (set(facts.executables) if index.globs else set())
    for path in sorted(names):
        if components(path) <= MAX_PATH_COMPONENTS:
            yield (Dimension.EXE, path_hash(path, seed)), index.executable(path)
    for glob, bits in _globs(index, seed).items():
        yield (Dimension.EXE_GLOB, glob), bits
    for path in index.directories:
        yield (Dimension.EXE_DIR, path_hash(path, seed)), index.directory(path)
    for dimension, values in ((Dimension.UID, index.uids), (Dimension.GID, index.gids)):
        for value, bits in sorted(values.items()):
            yield (dimension, value), bits | index.silent[dimension]
    owners = {
        Dimension.OWNER_UID: index.owner_uids,
        Dimension.OWNER_GID: index.owner_gids,
        Dimension.OWNER_MEMBER: index.owner_members,
    }
    for dimension, values in owners.items():
        for value, bits in sorted(values.items()):
            yield (dimension, value), bits
    yield (Dimension.NETNS, facts.host_netns), index.silent[Dimension.NETNS]
    for namespace in facts.namespaces:
        if namespace.cookie != facts.host_netns:
            yield (Dimension.NETNS, namespace.cookie), index.netns(namespace.addresses)


def _globs(index: Index, seed: int) -> dict[int, int]:
    globs: dict[int, int] = {}
    for glob, bits in index.starred.items():
        value = shape_hash(glob, seed)
        globs[value] = globs.get(value, 0) | bits
    return globs


def _cgroups(index: Index, facts: HostFacts) -> Iterator[tuple[tuple[Dimension, int], int, int]]:
    """Members of the cgroup dimension: their sets and MEMBER_FLAGS."""
    seed, ground = facts.hash_seed, ground_of(facts)
    named = {name for name in index.cgroups if name.startswith("/")}
    for unit in sorted(index.cgroups.keys() - named):
        container = _container_at(f"/{cgroup_name(unit)}")
        bits, flags = index.unit(unit, container), _flags(index, container)
        if "*" in unit:
            yield (Dimension.UNIT_TEMPLATE, template_hash(cgroup_name(unit), seed)), bits, flags
        else:
            yield (Dimension.UNIT, string_hash(cgroup_name(unit), seed)), bits, flags
    for path in sorted(named):
        yield (Dimension.CGROUP_GIVEN, string_hash(path, seed)), index.given_cgroup(path), 0
    for path in sorted(named | facts.containers.keys()):
        container = facts.containers.get(path) or _container_at(path)
        bits, flags = index.cgroup(path, container), _flags(index, container)
        yield (Dimension.CGROUP_PATH, string_hash(path, seed)), bits, flags
    for path, number in facts.cgroups.items():
        container = facts.containers.get(path)
        bits, flags = index.cgroup(path, container, ground), _flags(index, container)
        if flags or bits != index.silent[Dimension.CGROUP]:
            yield (Dimension.CGROUP, number), bits, flags
    yield (Dimension.CGROUP_NEW, 0), index.new_cgroup(), MEMBER_UNSURE


def _container_at(path: str) -> Container | None:
    """What the path alone tells of a container's own cgroup."""
    top = container_in(path)
    if top is None or top.path != path:
        return None
    return Container(top.id, top.runtime, top.name, known=bool(top.name))


def _flags(index: Index, container: Container | None) -> int:
    if container is None:
        return 0
    return MEMBER_CONTAINER | (MEMBER_UNSURE if index.unsure(container) else 0)


def _host_root(facts: HostFacts) -> dict[tuple[Dimension, int], int]:
    """What the kernel has to know to tell the cgroups of this host from those beside it."""
    root = facts.cgroups.get("/")
    return {(Dimension.CGROUP_HOST, number): SetId.EMPTY for number in (0, root)} if root else {}


def _rows(
    policy: Policy, facts: HostFacts, ids: Ids, index: Index, sets: _Sets, grants: dict[int, PlannedGrant]
) -> dict[int, TargetRow]:
    rows = {}
    windows = _Windows(facts.boot_offset_ns)
    for target, planned in planned_grants(policy.services.values(), policy.licenses).items():
        candidates = []
        for plan in planned:
            number = ids.grant(plan.name)
            grants[number] = plan
            principal = sets.id_of(index.principals.get(plan.principal, 0))
            candidates.append(Candidate(number, principal, 0, *windows.boot_ns(plan.window)))
        row_id = ids.target(target)
        rows[row_id] = TargetRow(
            id=row_id,
            target=target,
            mode=policy.mode_of(target),
            unresolved=policy.services[target.service].unresolved(target.port_class),
            clock_synced=facts.clock_synced,
            drops=policy.services[target.service].drops,
            excluded=sets.id_of(_excluded(policy, target, index)),
            home_netns=_home(policy.services[target.service], facts),
            candidates=tuple(candidates),
        )
        rows[row_id] = _with_groups(rows[row_id], index, sets)
    return rows


def _with_groups(row: TargetRow, index: Index, sets: _Sets) -> TargetRow:
    spoken = sets[row.excluded]
    for candidate in row.candidates:
        spoken |= sets[candidate.principal]
    gids = sorted(gid for gid, bits in index.gids.items() if bits & spoken)
    return replace(row, gid_list=sets.list_of(gids) if gids else 0)


def _owner_rows(
    policy: Policy, rows: Mapping[int, TargetRow], index: Index, sets: _Sets
) -> dict[int, TargetRow]:
    owners = {}
    for number, row in rows.items():
        service = policy.services[row.target.service]
        if service.owner:
            may = Candidate(
                0, sets.id_of(index.principals.get(service.owner_name, 0)), 0, 0, *[NO_BOOT_NS] * 2
            )
            owners[number] = _with_groups(
                replace(row, excluded=SetId.EMPTY, candidates=(may,), clock_synced=True), index, sets
            )
    return owners


def _excluded(policy: Policy, target: Target, index: Index) -> int:
    bits = 0
    for exclusion in policy.exclusions:
        if exclusion.covers(target):
            bits |= index.excluded.get(exclusion.principal, 0)
    return bits


def _numbers(policy: Policy) -> tuple[Numbered, ...]:
    """Ports that the same services declare, with the same class, are one to the kernel: where it is goes with
    the service."""
    declared = [(service.name, port) for service in policy.services.values() for port in service.ports]
    known: dict[frozenset[tuple[str, PortClass, Protocol]], int] = {}
    found = []
    for first, last, here in pieces(declared, lambda one: one[1]):
        targets = frozenset((service, port.port_class, port.protocol) for service, port in here)
        found.append(Numbered(first, last, known.setdefault(targets, len(known) + 1)))
    return tuple(found)


def _numbers_in(port: Port, numbers: Sequence[Numbered]) -> tuple[int, ...]:
    """Of one that is among those that were numbered."""
    begin, end = (
        bisect_right(numbers, edge, key=lambda one: one.first) for edge in (port.first - 1, port.last)
    )
    return tuple(dict.fromkeys(one.number for one in numbers[begin:end]))


def _targets(
    policy: Policy, facts: HostFacts, ids: Ids, numbers: Sequence[Numbered]
) -> tuple[dict[TargetKey, int], list[Finding]]:
    """The more explicit claim to a spot is made last and stays: this host, then networks, wide ones first
    (an IPv6 prefix cut around IPv4 may leave a part that another service names)."""
    targets: dict[TargetKey, int] = {}
    overlaps: dict[Port, Finding] = {}
    claims = []
    room = MAX_PLACES - len(facts.elsewhere)
    for service in policy.services.values():
        places = tuple(_claims(service, facts))
        counted: set[tuple[Protocol, int]] = set()
        for port in service.ports:
            within = _numbers_in(port, numbers)
            claims += [(claim, service, port, within) for claim in places]
            entries = {(port.protocol, number) for number in within} - counted
            counted |= entries
            room -= len(places) * len(entries)
            if room < 0:
                raise policy_errors([_too_many_places(service, port)])
    claims.sort(key=lambda each: each[0].rank)
    of_host: set[TargetKey] = set()
    for claim, service, port, within in claims:
        number = ids.target(Target(service.name, port.port_class))
        for ports in within:
            key = TargetKey(claim.netns, int(port.protocol), ports, claim.network)
            if service.at_host:
                of_host.add(key)
            elif key in of_host and claim.network != DELIVERED:
                reason = f"service '{service.name}' takes {port} from {ids.target_named(targets[key])}"
                where = f"at this host's address {show_network(claim.network)}"
                remedy = "give one of them another port or another `at`"
                overlaps[port] = Finding(port.place, f"{reason} {where}", remedy)
            targets[key] = number
    return targets, list(overlaps.values())


def _too_many_places(service: Service, port: Port) -> Finding:
    return Finding(
        port.place,
        f"service '{service.name}': {port} is one too many: all ports and ranges, each counted once for each "
        f"address and network that it is at, may be {MAX_PLACES}",
        "write neighboring ports as ranges, or networks in place of addresses",
    )


@dataclass(frozen=True, slots=True)
class _Claim:
    rank: int
    netns: int
    """0 for routable addresses."""
    network: Network


def _claims(service: Service, facts: HostFacts) -> Iterator[_Claim]:
    """All that the service's `at` means."""
    if service.at_containers:
        yield from _container_claims(service, facts)
    if service.at_host:
        for address in facts.addresses:
            netns = facts.host_netns if is_per_namespace(address) else 0
            yield _Claim(-1, netns, Network((int(address), 128)))
        for route in facts.local_routes:
            for part in without_mapped(route):
                netns = facts.host_netns if is_network_per_namespace(part) else 0
                yield _Claim(-1, netns, part)
        for network in (*LOOPBACK, *UNSPECIFIED, DELIVERED):
            yield _Claim(-1, facts.host_netns, network)
    for network in service.at or ():
        for part in without_mapped(network):
            netns = facts.host_netns if is_network_per_namespace(part) else 0
            yield _Claim(network.prefixlen, netns, part)


def _container_claims(service: Service, facts: HostFacts) -> Iterator[_Claim]:
    """The addresses of their namespaces; of one that shares this host's, this host's."""
    addresses = {one.cookie: one.addresses for one in facts.namespaces} | {facts.host_netns: facts.addresses}
    for netns in container_homes(service, facts):
        for address in addresses.get(netns, ()):
            yield _Claim(128, netns if is_per_namespace(address) else 0, Network((int(address), 128)))
        for network in (*LOOPBACK, *UNSPECIFIED, DELIVERED):
            yield _Claim(128, netns, network)


def _home(service: Service, facts: HostFacts) -> int:
    """A target has one home: of several containers, the first."""
    homes = container_homes(service, facts)
    return homes[0] if homes else facts.host_netns


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Windows:
    """Times of windows as CLOCK_BOOTTIME; thousands of grants share few windows."""

    def __init__(self, boot_offset_ns: int) -> None:
        self._offset_ns = boot_offset_ns
        self._known: dict[Window, tuple[int, int, int]] = {}

    def boot_ns(self, window: Window) -> tuple[int, int, int]:
        """(from, expires, ends)"""
        known = self._known.get(window)
        if known is None:
            known = (
                self._at(window.starts_at) if window.starts_at else 0,
                self._at(window.expires_at) if window.expires_at else NO_BOOT_NS,
                self._at(window.ends_at) if window.ends_at else NO_BOOT_NS,
            )
            self._known[window] = known
        return known

    def _at(self, when: datetime) -> int:
        return min(max(unix_ns(when) - self._offset_ns, 0), NO_BOOT_NS)


def unix_ns(when: datetime) -> int:
    """Nanoseconds since the epoch, exact to the microsecond that a datetime holds."""
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000
