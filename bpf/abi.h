/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The contract between the programs and user space: every struct that crosses, with its bounds.
 * agent/abi.py declares the same in Python; tests/kernel/test_abi.py compares the two.
 *
 * Structs are fixed-width and padded by hand. Ports are in host byte order unless named _net.
 * Addresses are 16 bytes in network byte order, IPv4 as ::ffff:a.b.c.d. Times are CLOCK_BOOTTIME
 * ns. Example: 10.0.0.1 is w = { 0, 0, htonl(0xffff), htonl(0x0a000001) }.
 */
#include <uapi/linux/bpf.h>

#define SET_WORDS	16 /* 1,024 clauses */
#define SET_BLOCKS	4  /* each of 4 words */
#define CANDIDATES	8
#define MAX_GROUPS	64 /* of a consumer, looked up one by one; for more see groups.h */
#define LISTED_GROUPS	64 /* how many groups the policy may name for one target */
#define GIDS_IN_SET	32
#define GROUP_STEPS	17 /* steps of a binary search in NGROUPS_MAX, 65,536 */
#define MAX_CGROUPS	12
#define MAX_OWNERS	6 /* how deep nested user namespaces are followed */
#define MAX_TARGETS	4096
#define PORTS		65536
#define OWNERS_OF	0x10000 /* OWNERS_OF | target: the row of those who may serve it */
#define PATH_COMPONENTS 24	/* names and mount crossings from an executable up to the root */
#define SHAPES		16	/* of globs, for one policy */
#define COMPONENT_BYTES 96
#define NAME_BYTES	256 /* a file name has at most 255 */
#define NAME_CHUNKS	4   /* of a name, which has at most 255 bytes */
#define CHUNK_WORDS	8
#define ARGS_BYTES	256
#define EVENT_GROUPS	16
#define CGROUP_BYTES	256
#define CGROUP_LEVELS	16 /* a cgroup below this depth is reported without a path */
#define EXE_NAME_BYTES	252
/* Bounds of the map uses: see uses.h. */
#define USES_OF_SIDE  6144 /* rows of each side, local or remote, that stand for one consumer */
#define USES_OF_MANY  7168 /* the same, with rows that stand for a user or a network */
#define USES_OF_SHARE 1024 /* rows of one user or network */
#define USE_SHARES    4096 /* per side; a hash collision makes users share one */
/* Stands in the code of a program that is loaded for several hooks. The loader replaces it by the
 * attach type. */
#define ATTACH_TYPE_MARK 0x6c1ce7a7

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

enum dimension {
	EXE,
	UID,
	GID,
	CGROUP,
	NETNS,
	EXE_DIR,
	CGROUP_PATH,
	CGROUP_NEW,
	CGROUP_HOST,
	OWNER_UID, /* who owns the consumer's user namespace */
	OWNER_GID,
	CGROUP_GIVEN,
	UNIT,
	UNIT_TEMPLATE,
	EXE_SHAPE, /* by number: the value is a shape (see glob.h), not a set */
	EXE_GLOB,
	OWNER_MEMBER, /* by uid: what the groups of that uid, as an owner, satisfy */
};

/* A flag in target_row.dimensions, beside the bits of the dimensions. */
#define ASKS_SUBORDINATE    29
#define ASKS_CONTAINER	    30
#define ASKS_USER_NAMESPACE 31

/* Sets with a fixed number. Two ranges follow: MISS + dimension, and CERTAIN + mask of enum
 * uncertain. */
enum set_id {
	SET_EMPTY,
	SET_MISS,
	SET_MISS_SOURCE = 6,
	SET_ALL = 7,
	SET_IN_CONTAINER = 8, /* clauses that may hold in a container */
	SET_ELSEWHERE =
		9, /* clauses that may hold for an executable that is not a file of the host */
	SET_ANY_CONTAINER = 10, /* clauses that hold in any container */
	SET_OWNED = 11,		/* clauses that may hold in a user namespace, by its owner */
	SET_SUBORDINATE =
		12, /* clauses that may hold for subordinate ids; no row asks for others */
	SET_CERTAIN = 16,
};

enum uncertain {
	UNCERTAIN_EXE = 1,  /* unknown whether an open glob matches the executable */
	UNCERTAIN_PATH = 2, /* the executable's path is unknown */
	UNCERTAIN_CGROUP = 4,
	UNCERTAIN_NETNS = 8,
	UNCERTAIN_CONTAINER = 16,     /* unknown which container it is */
	UNCERTAIN_ANY_CONTAINER = 32, /* unknown whether it is a container */
	DIMENSIONS_IN_DOUBT = 63,
	MAYBE_EXCLUDED = 64,
	MAYBE_GRANTED = 128,
};

/* Flags in the value of a member, beside the number of its set. This one: the cgroup is, or may be,
 * a container whose name is not known yet. */
#define MEMBER_UNSURE (1U << 31)
/* The cgroup is the top of a container, and only root could have made it. */
#define MEMBER_CONTAINER (1U << 30)
/* The cgroup is a unit below a cgroup that has MEMBER_UNSURE. If that one turns out to be a
 * container's top, this one is not a unit. */
#define MEMBER_UNSURE_UNIT (1U << 29)
#define MEMBER_FLAGS	   (MEMBER_UNSURE | MEMBER_CONTAINER | MEMBER_UNSURE_UNIT)

/* SPARE_FLOW | number of a CPU: the cookie of the spare row of that CPU in flows. A socket's cookie
 * never grows so large. */
#define SPARE_FLOW (1ULL << 63)
/* Marks in late_tuples, in place of a cookie. The low half is the initial sequence number of the
 * attempt. ROWLESS: it was judged in a spare row and let through. CLOSED: its consumer has
 * closed. */
#define ROWLESS (3ULL << 62)
#define CLOSED	(1ULL << 62)
/* A flag beside both marks; same meaning as flow.foreign. */
#define FOREIGN (1ULL << 32)

/* Values of exe where there is no path to hash. If bit 0 is set, no selector matches the name: it
 * was seen in an untrusted mount namespace, or is deeper than the walk goes. */
#define EXE_NONE      0
#define EXE_UNTRUSTED 1
#define EXE_UNKNOWN   2 /* there is a path, but path_walks has no room to walk it */
/* A flag in exe_name.directory: the path does not begin at the host's root. */
#define EXE_ELSEWHERE 1

enum gate { GATE_CONNECT, GATE_TC, GATE_SOCKET, GATE_BIND, GATES };

/* A run-time override of a target's mode. */
enum override { OVERRIDE_NONE, OVERRIDE_OBSERVE, OVERRIDE_ENFORCE };

/* Indices in arrival_calls: the programs that judge datagrams when they arrive. */
enum arrival { OBSERVE_ARRIVAL, REFUSE_ARRIVAL };

enum use_side { USE_LOCAL, USE_REMOTE, USE_SIDES };

/* Which consumers one row of uses stands for. */
enum use_of {
	USE_OF_ONE,   /* one executable in one cgroup; one /24 or /64 */
	USE_OF_MANY,  /* all of one user; all of one /16 or /48 */
	USE_OF_OTHERS /* all others of one side */
};

/* Whether an unresolved attempt is allowed. */
enum unresolved { UNRESOLVED_DENY, UNRESOLVED_ALLOW, UNRESOLVED_ALLOW_UNLESS_ENFORCING };

enum direction { OUTBOUND, INBOUND, DIRECTIONS };

enum loss {
	LOSS_RING_FULL,	  /* an event was not emitted; the counters stay exact */
	LOSS_FLOWS_FULL,  /* an attempt was judged and counted, but its flow is not tracked */
	LOSS_USES_FULL,	  /* an attempt was counted by target, but not by consumer */
	LOSS_COUNTS_FULL, /* an attempt was not counted. This and LOSS_TUPLES cost exactness */
	LOSS_TUPLES,	  /* a counted attempt could not be stored: it may count twice */
	LOSS_IDENTITY,	  /* a field of the consumer could not be read */
	LOSS_GROUPS,	  /* a long list of groups could not be read to its end */
	LOSS_CGROUPS,	  /* a new cgroup: its path is too long, or the table is full */
	LOSS_PATH,	  /* an executable deeper than PATH_COMPONENTS: no selector matches it */
	LOSS_STATE_CB,	  /* the close of a flow will only be found by reconciliation */
	LOSS_NO_ROW,	  /* a target has no row: the tables are inconsistent */
	LOSS_STORAGE,	  /* a listener or an accepting process could not be stored */
	LOSS_REFUSALS,	  /* an attempt that should have been refused was let through */
	LOSSES,
};

struct address {
	u32 w[4];
};

struct set {
	u64 w[SET_WORDS];
};

/* Stands in the place of a set: the groups that a row's clauses name. The rest is filled with
 * (gid_t)-1, which no process holds. */
struct gid_list {
	u32 gid[GIDS_IN_SET];
};

/* modes[target], or modes[0] for the whole host. */
struct mode {
	u64 until_ns; /* when the override expires; all bits set: never */
	u32 override, pad;
};

struct settings {
	u64 seed; /* key of the name hashes */
	u64 host_netns;
	u32 edges;	 /* aggregate unprotected traffic */
	u32 flow_events; /* emit an event for each flow that opens or closes */
	/* mask of the attached gates: only these refuse, and only their refusals are reported */
	u32 gates;
	u32 host_pidns; /* inode number of the host's pid namespace; 0: the first one */
	u32 receipts;	/* observe_receive is attached, so peers has to be written */
	u32 pad;
};

/* By port: its number in the keys of targets. Ports with the same targets at the same places share
 * one number, so a range costs one entry. 0: no service declares the port. */
struct port_numbers {
	u16 of[PORTS];
};

/*
 * Where a target is reached. Rows, as { prefixlen, protocol, ports, netns, address } -> target:
 *
 *  { 224, 6, 1, 0, ::ffff:10.0.0.5 } -> 3    tcp, the ports with number 1, at 10.0.0.5
 *  { 200, 6, 1, 0, ::ffff:10.0.0.0 } -> 3    the same at 10.0.0.0/8
 *  { 224, 6, 1, N, ::ffff:127.0.0.1 } -> 3   at loopback of the network namespace with cookie N
 *  { 224, 17, 2, N, all ones } -> 4          udp: whatever is delivered in namespace N
 *                                            (lib/delivery.h)
 */
struct target_key {
	u32 prefixlen;
	u16 protocol;
	u16 ports; /* number from struct port_numbers */
	u64 netns; /* 0 for routable addresses */
	struct address address;
};

/*
 * Remote consumers: { prefixlen, address } -> set of the clauses that match the address.
 *
 *  { 120, ::ffff:10.1.2.0 } -> 8   `cidr: 10.1.2.0/24`
 *  { 32, 2001:db8:: } -> 9         `cidr: 2001:db8::/32`
 */
struct source_key {
	u32 prefixlen;
	struct address address;
};

/*
 * Facts about a consumer: { dimension, pad, value } -> set of the clauses that this fact satisfies.
 *
 *  { UID, 0, 1001 } -> 5              clauses with `uid: 1001`
 *  { EXE, 0, hash of the path } -> 6  clauses whose `exe` matches that path
 *  { CGROUP, 0, cgroup id } -> 7      clauses with a unit or container that has this cgroup
 */
struct member_key {
	u32 dimension;
	u32 pad;
	u64 value;
};

/* A block of uids that are some user's subordinate ids (subuid(5)). */
struct subordinate_key {
	u32 prefixlen;
	u32 dimension; /* UID: clauses by the user's uid; GID: clauses by the user's groups */
	u32 uid_net;
};

struct candidate {
	u32 grant;
	u32 principal; /* number of a set */
	u32 state;     /* enum reason that denies, or 0 */
	u32 pad;
	u64 from_ns, expires_ns, ends_ns;
};

struct target_row {
	u32 excluded; /* number of a set */
	u32 candidates;
	u32 dimensions; /* mask of the dimensions that this row's clauses use */
	u32 blocks;	/* how many blocks of a set are in use */
	u8 enforce, unresolved, clock_synced, drop;
	u32 gid_list; /* number of the first of two sets that hold a struct gid_list */
	u64 home_netns;
	struct candidate candidate[CANDIDATES];
};

/* A process, as it was when it made the system call. */
struct identity {
	u64 start_ns; /* of the group leader */
	u64 exe;      /* hash of the path */
	u64 cgroup;
	u64 netns;
	u32 pid;      /* thread group id, in the initial pid namespace */
	u32 uid, gid; /* effective ids */
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

/* Where a listener is: the local end of the connections that it accepts. */
struct owner_key {
	u64 netns;
	struct address address;
	u16 port, pad[3];
};

enum listener_flag {
	LISTENER_SHARES = 1, /* other sockets can listen here: SO_REUSEPORT, or bound to a device */
	LISTENER_V6ONLY = 2,
	LISTENER_ACTIVATED = 4, /* pid 1, or a system .socket unit, called listen() for a service */
	LISTENER_TRANSPARENT = 8, /* IP_TRANSPARENT: accepts connections to foreign addresses */
	LISTENER_BESIDE = 16, /* shares the place with an earlier listener that is not a stranger */
	LISTENER_OWNER = 32,  /* judged: the process is an owner of the target */
};

struct listener_owner {
	u64 since_ns;
	u64 cookie; /* of the listening socket */
	u64 socket; /* its struct sock, to see if it still listens; 0: user space made the row */
	u32 flags;
	/* the target that this process does not own, or 0; while it listens, the socket gate
	 * refuses consumers of that target here */
	u32 stranger_to;
	struct identity process;
};

enum flow_state { FLOW_ATTEMPT, FLOW_SYN, FLOW_OPEN, FLOW_SPARE };

struct flow {
	u64 opened_ns;
	u64 server_cookie; /* the accepted socket's, if both ends are on this host; else 0 */
	/* consumer.netns is that of the socket in the key, also for a remote consumer */
	struct identity consumer, owner;
	u64 acceptor_start_ns, acceptor_exe;
	u32 acceptor_pid;
	u8 state, pre_existing;
	u8 sequenced; /* sequence is valid: false before the SYN, and for a remote consumer */
	u8 foreign;   /* made in a network namespace that a user, not the host, owns */
	struct verdict verdict;
	struct address local, remote; /* of the socket whose cookie is the key */
	u16 local_port, remote_port;
	u32 sequence;	    /* initial sequence number of its SYN */
	struct set clauses; /* of a local consumer: those that hold or could hold */
};

struct count_key {
	u32 target;
	u8 decision, reason, origin, protocol;
};

struct flow_count {
	u64 opened, closed;
};

/* One row for all attempts of one consumer on one target that have the same verdict. */
struct use_key {
	u64 exe, cgroup;
	u32 target, uid;
	u8 decision, reason, origin, protocol;
	u8 enforced, use_of, pad[2];
	struct address source; /* remote: the /24 or /64; local: zero */
};

struct use {
	u64 attempts;
	u64 first_ns, last_ns;
	struct identity first;
	struct verdict verdict;
	struct address source, destination; /* of the first attempt */
	u16 source_port, port;
	u32 told; /* the event for this row was emitted */
	char comm[16];
	u32 share; /* index in use_counts of the share that this row counts in */
	u32 pad;
};

struct told {
	u64 attempts, time_ns;
};

/* Which process accepted how many flows of a target. */
struct acceptor_key {
	u64 start_ns, exe;
	u32 target, pid;
};

struct served {
	u64 flow_cookie;
	u32 target, pad;
};

/* The process that accepted a socket before its PASSIVE_ESTABLISHED callback. */
struct early_acceptor {
	struct identity who;
	u64 at_ns;
};

/* A refusal that the observer decided. The gate that runs after it carries it out. */
struct refusal {
	u64 cookie;
	u32 target;
	u32 again; /* this attempt was counted before */
};

/* A UDP socket of this host, and its destination. With target set, and address and port zero: an
 * attempt of this socket. */
struct sender_key {
	u64 cookie;
	struct address remote;
	u32 target;
	u16 port, pad;
};

struct sender {
	u64 generation;		/* of the policy it was judged by */
	u64 judged_ns, seen_ns; /* seen_ns: time of the last datagram */
	u64 cred, exec_id;	/* of the task that was judged, at that time */
	u32 pid, target;
	u8 decision, reason, enforced, pad[5];
};

/* Verdict on a connected UDP socket. Stored in the socket itself, so that other sockets cannot
 * evict it. */
struct connected {
	u64 generation; /* of the policy it was judged by */
	struct address remote;
	u16 port, pad;
	u32 target;
	u8 decision, pad2[7];
};

/* What a UDP socket of this host sent, keyed by the tuple as that socket sees it. */
struct sent {
	u64 time_ns, netns;
	u64 cookie; /* of the socket */
	/* 0: sent to no target, from a declared port; the datagram that comes back is an answer */
	u32 target;
	u8 decision;
	u8 foreign; /* made in a network namespace that a user, not the host, owns */
	u8 refused; /* counted as refused */
	/* not sent by a socket of this host: only forwarded answers are let through */
	u8 forwarded;
};

/* The last datagram of a UDP socket, and when it was last processed. Stored in the socket
 * itself. */
struct last_sent {
	u64 time_ns;	/* bpf_ktime_get_coarse_ns() */
	u64 generation; /* of the policy in force then */
	struct tuple tuple;
	u64 cookie; /* same as in sents; 0: an answer, for which sents has no row */
};

/* Verdict on the last datagram of a UDP socket to an address. Stored in the socket itself. */
struct last_judged {
	u64 time_ns; /* bpf_ktime_get_coarse_ns() */
	struct sender said;
	struct address remote;
	u16 port, pad[3];
};

/* An address that sends datagrams to a target. */
struct peer_key {
	u32 target;
	struct address address;
};

struct peer {
	/* as in struct sender; for a key.target from answers_from(), judged_ns is when a socket
	 * received the datagram */
	u64 generation, judged_ns, seen_ns;
	u8 decision, reason, enforced, pad[5];
};

/* Verdict of a gate on the last SYN of a connection. */
struct judged_syn {
	u64 netns;   /* where the gate ran */
	u64 time_ns; /* 0: the socket gate has used this verdict */
	u32 sequence;
	u8 refused;
	u8 gate;    /* GATE_TC, or GATE_SOCKET, which does not know the sequence number */
	u8 foreign; /* the gate ran in a network namespace that a user, not the host, owns */
	u8 vouched; /* the packet belonged to the very socket whose flow has this tuple */
};

struct edge_key {
	u64 exe;	     /* outbound: the consumer's; inbound: 0 */
	struct address peer; /* outbound: the destination; inbound: the source's /24 or /64 */
	u16 port;
	u8 direction, protocol;
	u32 uid;
};

struct exe_key {
	u64 mount, dentry, name;
};

struct exe_name {
	u64 path, directory; /* hashes; bit 0 is a flag */
	u64 globs;	     /* generation of the policy whose globs match this path, or 0 */
};

struct glob_key {
	u64 path, generation;
};

/* The sets of the globs that match a path. */
struct glob_sets {
	u32 set[SHAPES]; /* 0 ends the list */
};

/* The cached result of a walk. */
struct exe_row {
	struct exe_name name;
	u64 until_ns;	/* entries expire: renaming a directory above changes no part of the key */
	u64 generation; /* of the policy whose globs were matched */
};

/* A path during a walk. Too large for the stack. */
struct path_walk {
	u64 name[PATH_COMPONENTS]; /* addresses of the names, leaf first */
	u64 term[PATH_COMPONENTS]; /* what each name adds to the sum */
	u64 sum;
	u32 bytes[PATH_COMPONENTS];
	u32 count, is_cut, is_untrusted, globs;
	struct exe_row found;
	struct glob_sets sets;
	u64 text[2 * NAME_BYTES /
		 8]; /* two names long, for the verifier: the parts before and after the star */
};

struct stored_name {
	u32 bytes; /* 0: reported to user space, not stored yet */
	char text[EXE_NAME_BYTES];
};

enum event_type {
	EVENT_USE = 1,
	EVENT_NAME,
	EVENT_LISTEN,
	EVENT_OPEN,
	EVENT_CLOSE,
	EVENT_CGROUP,
	EVENT_BIND, /* a refused bind(); the struct is listen_event */
	EVENT_NETNS,
	EVENT_GONE,
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
	char args[ARGS_BYTES]; /* NUL-separated, truncated at the end */
};

struct name_event {
	struct event_header header;
	u64 exe;
	u32 pid, components;
	char part[PATH_COMPONENTS][COMPONENT_BYTES]; /* leaf first; empty: a mount crossing */
};

struct listen_event {
	struct event_header header;
	struct identity owner;
	u64 cookie;
	struct address address;
	u16 port, protocol;
	u32 target; /* EVENT_BIND: the target that this process does not own */
	char comm[16];
};

struct flow_event {
	struct event_header header;
	u64 cookie;
	struct flow flow;
};

struct cgroup_name {
	u64 text;    /* address of the name in kernel memory */
	u64 head[3]; /* the first bytes, padded with zeros */
	u64 tail;    /* the last 8 bytes */
	u32 bytes;
	u32 pad;
};

/* A cgroup that is being created. */
struct birth {
	u64 id;
	struct cgroup_name name;
	struct cgroup_name at, parent; /* where the walk upwards is */
	u64 at_id, parent_id;
	u32 kind, at_kind; /* enum cgroup_kind */
	u32 above;	   /* enum above */
	u32 at_host;	   /* 1: `at` is what the agent takes for its host; 2: its parent is */
	u32 skip;	   /* bytes of the path up to the host's root */
	u32 pad;
	char text[CGROUP_BYTES];
};

struct cgroup_event {
	struct event_header header;
	u64 id;
	char path[CGROUP_BYTES]; /* below what the agent takes for its host; empty: too long */
	u32 by_root;		 /* only root could have created it there */
	u32 pad;
};

/* The cgroup of a container that is being removed. */
struct gone_event {
	struct event_header header;
	u64 id;
};

struct netns_event {
	struct event_header header;
	u64 netns;
	u32 pid, pad;
};
