/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The contract between the programs and user space: every struct that crosses, with its bounds.
 * agent/kernel/abi.py says the same in Python; tests/kernel/test_abi.py holds the two together.
 *
 * Structs are fixed-width and padded by hand. Ports are in host byte order unless named _net.
 * Addresses are 16 bytes in network byte order, IPv4 as ::ffff:a.b.c.d. Times are CLOCK_BOOTTIME
 * ns. Example: 10.0.0.1 is w = { 0, 0, htonl(0xffff), htonl(0x0a000001) }.
 */
#include <uapi/linux/bpf.h>

#define SET_WORDS	16 /* 1,024 clauses */
#define SET_BLOCKS	4  /* of 4 words */
#define CANDIDATES	8
#define MAX_GROUPS	64
#define MAX_CGROUPS	12
#define MAX_TARGETS	4096
#define OWNERS_OF	0x10000 /* | target: the row that says who may serve it */
#define PATH_COMPONENTS 24	/* names and mount crossings from an executable up to the root */
#define COMPONENT_BYTES 96
#define NAME_CHUNKS	4 /* 255 bytes, the longest name a file can have */
#define CHUNK_WORDS	8
#define ARGS_BYTES	256
#define EVENT_GROUPS	16
#define CGROUP_BYTES	256
#define EXE_NAME_BYTES	252

enum decision { ALLOWED, GRACE, OVERAGE, DENIED };

enum reason {
	LICENSED,
	EXCLUDED,
	NO_LICENSE,
	UNLICENSED_PRINCIPAL,
	UNRESOLVED,
	NOT_YET_VALID = 13,
	EXPIRED = 14,
	CLOCK_UNSYNCED = 18,
};

enum origin { LOOPBACK, CONTAINER, REMOTE };

enum dimension { EXE, UID, GID, CGROUP, NETNS, EXE_DIR, CGROUP_PATH, CGROUP_NEW };

/* Sets with a fixed number; MISS + dimension, CERTAIN + mask of enum uncertain. */
enum set_id { SET_EMPTY, SET_MISS, SET_MISS_SOURCE = 6, SET_ALL = 7, SET_CERTAIN = 16 };

enum uncertain {
	UNCERTAIN_EXE = 1,
	UNCERTAIN_GID = 2,
	UNCERTAIN_CGROUP = 4,
	UNCERTAIN_NETNS = 8,
	UNCERTAIN_CONTAINER = 16,
	DIMENSIONS_IN_DOUBT = 31,
	MAYBE_EXCLUDED = 32,
	MAYBE_GRANTED = 64,
};

/* In the value of a member, beside the number of its set: a cgroup that is, or may be, a container
 * whose name is not known yet. */
#define MEMBER_UNSURE (1U << 31)

/* With the number of a CPU: the cookie of its spare row in flows. No socket's cookie grows so
 * large. */
#define SPARE_FLOW (1ULL << 63)
/* In late_tuples, for a cookie: of an attempt that was judged in a spare row, and let through. */
#define ROWLESS (3ULL << 62)

/* What exe is when there is no path to hash. Bit 0 set: seen in an untrusted mount namespace. */
#define EXE_NONE      0
#define EXE_UNTRUSTED 1

enum gate { GATE_CONNECT, GATE_TC, GATE_SOCKET, GATE_BIND, GATES };

/* A run-time override of a target's mode. */
enum override { OVERRIDE_NONE, OVERRIDE_OBSERVE, OVERRIDE_ENFORCE };

enum direction { OUTBOUND, INBOUND, DIRECTIONS };

enum loss {
	LOSS_RING_FULL,	  /* an event was not sent; the counters are exact all the same */
	LOSS_FLOWS_FULL,  /* an attempt was judged and counted, but its flow is not followed */
	LOSS_USES_FULL,	  /* an attempt was counted by target, but not by consumer */
	LOSS_COUNTS_FULL, /* an attempt was not counted: the only loss that costs exactness */
	LOSS_TUPLES,	  /* both ends of a connection of this host may count as two attempts */
	LOSS_IDENTITY,	  /* a field of the consumer could not be read */
	LOSS_GROUPS,   /* more than MAX_GROUPS groups: judged as unresolved where groups matter */
	LOSS_CGROUPS,  /* more than MAX_CGROUPS levels: judged as unresolved where cgroups matter */
	LOSS_PATH,     /* an executable deeper than PATH_COMPONENTS: it has no name */
	LOSS_STATE_CB, /* a flow whose close will only be seen by reconciliation */
	LOSS_NO_ROW,   /* a target without a row: tables are inconsistent */
	LOSS_STORAGE,  /* a listener or an accepting process could not be noted */
	LOSS_REFUSALS, /* an attempt that should have been refused was let through */
	LOSSES,
};

struct address {
	u32 w[4];
};

struct set {
	u64 w[SET_WORDS];
};

/* modes[target], or modes[0] for the whole host. */
struct mode {
	u64 until_ns; /* it ends by itself; all bits: never */
	u32 override, pad;
};

struct settings {
	u64 seed; /* key of the name hashes */
	u64 host_netns;
	u32 edges;	 /* aggregate unprotected traffic */
	u32 flow_events; /* an event for each flow that opens and closes */
	u32 gates; /* mask of those attached: nothing is refused, or called refused, by others */
	u32 pad;
};

struct target_key {
	u32 prefixlen;
	u16 protocol;
	u16 port_net;
	u64 netns; /* 0 for routable addresses */
	struct address address;
};

struct source_key {
	u32 prefixlen;
	struct address address;
};

struct member_key {
	u32 dimension;
	u32 pad;
	u64 value;
};

struct candidate {
	u32 grant;
	u32 principal; /* set */
	u32 state;     /* enum reason that denies, or 0 */
	u32 pad;
	u64 from_ns, expires_ns, ends_ns;
};

struct target_row {
	u32 excluded; /* set */
	u32 candidates;
	u32 dimensions; /* mask of those that anything in this row speaks of */
	u32 blocks;	/* of a set that are in use */
	u8 enforce, unresolved_allowed, clock_synced, drop, pad[4];
	u64 home_netns;
	struct candidate candidate[CANDIDATES];
};

/* A process, as it was at the moment of the system call. */
struct identity {
	u64 start_ns; /* of the group leader */
	u64 exe;      /* hash of the path */
	u64 cgroup;
	u64 netns;
	u32 pid;      /* thread group, in the initial pid namespace */
	u32 uid, gid; /* effective */
	u32 pad;
};

struct verdict {
	u32 target, grant;
	u8 decision, reason, enforced, uncertain;
	u8 origin, protocol, pad[2];
};

struct tuple {
	u64 netns; /* 0 for routable addresses */
	struct address local, remote;
	u16 local_port, remote_port;
	u32 pad;
};

/* Where a listener is found by what it accepts. */
struct owner_key {
	u64 netns;
	struct address address;
	u16 port, pad[3];
};

struct listener_owner {
	u64 since_ns;
	struct identity process;
};

enum flow_state { FLOW_ATTEMPT, FLOW_SYN, FLOW_OPEN, FLOW_SPARE };

struct flow {
	u64 opened_ns;
	u64 server_cookie; /* both ends on this host: the accepted socket's; else 0 */
	struct identity consumer,
		owner; /* consumer.netns is the key's socket's, also where it is remote */
	u64 acceptor_start_ns, acceptor_exe;
	u32 acceptor_pid;
	u8 state, pre_existing, pad[2];
	struct verdict verdict;
	struct address local, remote; /* of the socket whose cookie is the key */
	u16 local_port, remote_port;
	u32 pad2;
	struct set clauses; /* that held, or could hold, for a local consumer; too large for the
			       stack */
};

struct count_key {
	u32 target;
	u8 decision, reason, origin, protocol;
};

struct flow_count {
	u64 opened, closed;
};

/* Who uses what: one row for each consumer of a target that is judged alike. */
struct use_key {
	u64 exe, cgroup;
	u32 target, uid;
	u8 decision, reason, origin, protocol;
	u8 enforced, pad[3];
	struct address source; /* remote: the /24 or /64; local: zero */
};

struct use {
	u64 attempts;
	u64 first_ns, last_ns;
	struct identity first;
	struct verdict verdict;
	struct address source, destination; /* of the first attempt */
	u16 source_port, port;
	u32 told; /* its event has been sent */
	char comm[16];
};

struct told {
	u64 attempts, time_ns;
};

/* Which process served how many flows of a target. */
struct acceptor_key {
	u64 start_ns, exe;
	u32 target, pid;
};

struct served {
	u64 flow_cookie;
	u32 target, pad;
};

/* Who accepted a socket before its PASSIVE_ESTABLISHED. */
struct early_acceptor {
	struct identity who;
	u64 at_ns;
};

/* A refusal that the observer has decided on and the gate behind it carries out. */
struct refusal {
	u64 cookie;
	u32 target, pad;
};

/* What the tc gate said of the last SYN of a connection, for the socket gate behind it. */
struct judged_syn {
	u64 netns; /* of the interface it came in by */
	u32 sequence;
	u8 refused, pad[3];
};

struct edge_key {
	u64 exe;	     /* outbound: the consumer's; inbound: 0 */
	struct address peer; /* outbound: where to; inbound: the /24 or /64 it came from */
	u16 port;
	u8 direction, protocol;
	u32 uid;
};

struct exe_key {
	u64 mount, dentry, name;
};

struct exe_name {
	u64 path, directory; /* hashes */
	u64 until_ns;	     /* renaming a directory above changes no part of the key */
};

struct stored_name {
	u32 bytes; /* 0: told to user space, not stored yet */
	char text[EXE_NAME_BYTES];
};

enum event_type {
	EVENT_USE = 1,
	EVENT_NAME,
	EVENT_LISTEN,
	EVENT_OPEN,
	EVENT_CLOSE,
	EVENT_CGROUP,
	EVENT_BIND, /* refused; a listen_event */
};

struct event_header {
	u64 time_ns;
	u32 type, bytes;
};

struct use_event {
	struct event_header header;
	struct use_key key;
	struct identity consumer;
	struct verdict verdict;
	struct address source, destination;
	u16 source_port, port;
	u32 groups; /* how many of gids are set */
	u32 gids[EVENT_GROUPS];
	u32 args_bytes;
	u32 pad;
	char comm[16];
	char args[ARGS_BYTES]; /* NUL-separated, cut at the end */
};

struct name_event {
	struct event_header header;
	u64 exe;
	u32 pid, components;
	char part[PATH_COMPONENTS][COMPONENT_BYTES]; /* leaf first; empty: a mount was crossed */
};

struct listen_event {
	struct event_header header;
	struct identity owner;
	u64 cookie;
	struct address address;
	u16 port, pad[3];
	char comm[16];
};

struct flow_event {
	struct event_header header;
	u64 cookie;
	struct flow flow;
};

struct cgroup_event {
	struct event_header header;
	u64 id;
	char path[CGROUP_BYTES];
};
