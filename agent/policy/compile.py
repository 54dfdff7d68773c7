"""Policy → Tables: what the kernel is given, and what the daemon needs for names that arrive later.

The meaning of the tables is in `tables`; of a clause, in `clauses`; which holds with what, in `index`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from agent.model import Address, Container, HostFacts, Network, Target, show_network
from agent.policy.clauses import Clause, number_clauses
from agent.policy.findings import policy_errors
from agent.policy.grants import PlannedGrant, planned_grants
from agent.policy.hashing import path_hash, string_hash
from agent.policy.homes import container_homes
from agent.policy.hostcheck import host_warnings
from agent.policy.ids import Ids
from agent.policy.index import Index, index_clauses
from agent.policy.networks import (
    LOOPBACK,
    UNSPECIFIED,
    is_network_per_namespace,
    is_per_namespace,
    without_mapped,
)
from agent.policy.paths import components
from agent.policy.tables import (
    MAX_PATH_COMPONENTS,
    MAX_SETS,
    MEMBER_UNSURE,
    NO_BOOT_NS,
    Candidate,
    Dimension,
    Grant,
    SetId,
    Tables,
    TargetKey,
    TargetRow,
    empty_tables,
)
from agent.policy.values import Finding, Place, Policy, Port, Principal, Service, Window

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
    clauses = number_clauses((*policy.principals.values(), *_owners(policy)))
    index = index_clauses(clauses, facts)
    sets = _Sets(index)
    members = {key: sets.id_of(bits) for key, bits in _members(index, facts)}
    for key, bits, unsure in _cgroups(index, facts):
        members[key] = sets.id_of(bits) | (MEMBER_UNSURE if unsure else 0)
    sources = {network: sets.id_of(bits | index.anyone) for network, bits in index.sources.items()}
    grants: dict[int, PlannedGrant] = {}
    rows = _rows(policy, facts, ids, index, sets, grants)
    targets, overlaps = _targets(policy, facts, ids)
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
    )
    warnings = (*policy.warnings, *host_warnings(policy, facts), *overlaps)
    return Compiled(tables, warnings, tuple(clauses), index, grants)


def member_for_executable(compiled: Compiled, path: str) -> int:
    """The set (not its id) for members[EXE, path_hash(path)], of a name that has become known."""
    return compiled.index.executable(path)


def member_for_cgroup(compiled: Compiled, path: str, container: Container | None = None) -> tuple[int, int]:
    """The set for members[CGROUP, id] of a cgroup made at `path`, and MEMBER_UNSURE or 0."""
    flags = MEMBER_UNSURE if compiled.index.unsure(container) else 0
    return compiled.index.cgroup(path, container), flags


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
        for mask in range(SetId.FIRST_FREE - SetId.CERTAIN):
            fixed[SetId.CERTAIN + mask] = index.certain(mask)
        self._sets = fixed
        self._ids = {0: int(SetId.EMPTY)}

    def id_of(self, bits: int) -> int:
        number = self._ids.setdefault(bits, len(self._sets))
        if number == len(self._sets):
            self._sets.append(bits)
        return number

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
    for path in index.directories:
        yield (Dimension.EXE_DIR, path_hash(path, seed)), index.directory(path)
    for dimension, values in ((Dimension.UID, index.uids), (Dimension.GID, index.gids)):
        for value, bits in sorted(values.items()):
            yield (dimension, value), bits | index.silent[dimension]
    yield (Dimension.NETNS, facts.host_netns), index.silent[Dimension.NETNS]
    for namespace in facts.namespaces:
        if namespace.cookie != facts.host_netns:
            yield (Dimension.NETNS, namespace.cookie), index.netns(namespace.addresses)


def _cgroups(index: Index, facts: HostFacts) -> Iterator[tuple[tuple[Dimension, int], int, bool]]:
    """Members of the cgroup dimension; True: unsure."""
    for path in sorted(index.cgroup_paths(facts.cgroups, facts.containers)):
        container = facts.containers.get(path)
        bits, unsure = index.cgroup(path, container), index.unsure(container)
        yield (Dimension.CGROUP_PATH, string_hash(path, facts.hash_seed)), bits, unsure
        if path in facts.cgroups:
            yield (Dimension.CGROUP, facts.cgroups[path]), bits, unsure
    if index.containers:
        yield (Dimension.CGROUP_NEW, 0), index.new_cgroup(), True


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
            candidates.append(
                Candidate(
                    number, sets.id_of(index.principals[plan.principal]), 0, *windows.boot_ns(plan.window)
                )
            )
        row_id = ids.target(target)
        rows[row_id] = TargetRow(
            id=row_id,
            target=target,
            mode=policy.mode_of(target),
            unresolved_allowed=policy.services[target.service].unresolved_allowed(target.port_class),
            clock_synced=facts.clock_synced,
            drops=policy.services[target.service].drops,
            excluded=sets.id_of(_excluded(policy, target, index)),
            home_netns=_home(policy.services[target.service], facts),
            candidates=tuple(candidates),
        )
    return rows


def _owners(policy: Policy) -> list[Principal]:
    """Who may serve each service that says so, under a name that no principal can have."""
    return [
        Principal(_owner_of(service), service.place, service.owner)
        for service in policy.services.values()
        if service.owner
    ]


def _owner_of(service: Service) -> str:
    return f"owner of {service.name}"


def _owner_rows(
    policy: Policy, rows: Mapping[int, TargetRow], index: Index, sets: _Sets
) -> dict[int, TargetRow]:
    owners = {}
    for number, row in rows.items():
        service = policy.services[row.target.service]
        if service.owner:
            may = Candidate(
                0, sets.id_of(index.principals.get(_owner_of(service), 0)), 0, 0, *[NO_BOOT_NS] * 2
            )
            owners[number] = replace(
                row, excluded=SetId.EMPTY, candidates=(may,), unresolved_allowed=True, clock_synced=True
            )
    return owners


def _excluded(policy: Policy, target: Target, index: Index) -> int:
    bits = 0
    for exclusion in policy.exclusions:
        if exclusion.covers(target):
            bits |= index.principals[exclusion.principal]
    return bits


def _targets(policy: Policy, facts: HostFacts, ids: Ids) -> tuple[dict[TargetKey, int], list[Finding]]:
    """The more explicit claim to a spot is made last and stays: this host, then networks, wide ones first
    (an IPv6 prefix cut around IPv4 may leave a part that another service names)."""
    targets: dict[TargetKey, int] = {}
    overlaps: dict[Port, Finding] = {}
    claims = [
        (claim, service, port)
        for service in policy.services.values()
        for port in service.ports
        for claim in _claims(service, facts)
    ]
    claims.sort(key=lambda each: each[0].rank)
    of_host: set[TargetKey] = set()
    for claim, service, port in claims:
        number = ids.target(Target(service.name, port.port_class))
        for port_number in range(port.first, port.last + 1):
            key = TargetKey(claim.netns, int(port.protocol), port_number, claim.network)
            if service.at_host:
                of_host.add(key)
            elif key in of_host:
                reason = f"service '{service.name}' takes {port} from {ids.target_named(targets[key])}"
                where = f"at this host's address {show_network(claim.network)}"
                remedy = "give one of them another port or another `at`"
                overlaps[port] = Finding(port.place, f"{reason} {where}", remedy)
            targets[key] = number
    return targets, list(overlaps.values())


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
        for network in (*LOOPBACK, *UNSPECIFIED):
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
        for network in (*LOOPBACK, *UNSPECIFIED):
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
