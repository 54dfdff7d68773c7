/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The contract between the programs and user space: every struct that crosses, with its bounds.
 * agent/abi.py says the same in Python; tests/kernel/test_abi.py holds the two together.
 *
 * Structs are fixed-width and padded by hand. Ports are in host byte order unless named _net.
 * Addresses are 16 bytes in network byte order, IPv4 as ::ffff:a.b.c.d. Times are CLOCK_BOOTTIME
 * ns. Example: 10.0.0.1 is w = { 0, 0, htonl(0xffff), htonl(0x0a000001) }.
 */
#include <uapi/linux/bpf.h>

#define SET_WORDS  16 /* 1,024 clauses */
#define SET_BLOCKS 4  /* of 4 words */
#define CANDIDATES 8
#define MAX_GROUPS                                                                                 \
	64 /* of a consumer, looked at one by one; in more, those of a list are searched */
#define LISTED_GROUPS	64 /* that one target speaks of */
#define GIDS_IN_SET	32
#define GROUP_STEPS	17 /* halves NGROUPS_MAX, 65,536 */
#define MAX_CGROUPS	12
#define MAX_OWNERS	6 /* of user namespaces, one in the other */
#define MAX_TARGETS	4096
#define PORTS		65536
#define OWNERS_OF	0x10000 /* | target: the row that says who may serve it */
#define PATH_COMPONENTS 24	/* names and mount crossings from an executable up to the root */
#define SHAPES		16	/* of globs, in one policy */
#define COMPONENT_BYTES 96
#define NAME_BYTES	256 /* the longest name of a file has 255 */
#define NAME_CHUNKS	4   /* 255 bytes, the longest name a file can have */
#define CHUNK_WORDS	8
#define ARGS_BYTES	256
#define EVENT_GROUPS	16
#define CGROUP_BYTES	256
#define CGROUP_LEVELS	16 /* a cgroup deeper than that is told without a path */
#define EXE_NAME_BYTES	252
/* Rows of uses: see uses.h. */
#define USES_OF_SIDE  6144 /* of either side, local or remote, for consumers one by one */
#define USES_OF_MANY  7168 /* the same with those that stand for a user or a network */
#define USES_OF_SHARE 1024 /* of whoever has a share */
#define USE_SHARES    4096 /* of either side; who meets in one by chance shares it */
/* In the code of a program that is loaded for several hooks: the loader puts the attach type here.
 */
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
	OWNER_UID, /* of a user namespace */
	OWNER_GID,
	CGROUP_GIVEN,
	UNIT,
	UNIT_TEMPLATE,
	EXE_SHAPE, /* by number: no set, but a shape (see glob.h) */
	EXE_GLOB,
	OWNER_MEMBER, /* by uid: what an owner's groups say */
};

/* In the mask of a row, beside dimensions. */
#define ASKS_SUBORDINATE    29
#define ASKS_CONTAINER	    30
#define ASKS_USER_NAMESPACE 31

/* Sets with a fixed number; MISS + dimension, CERTAIN + mask of enum uncertain. */
enum set_id {
	SET_EMPTY,
	SET_MISS,
	SET_MISS_SOURCE = 6,
	SET_ALL = 7,
	SET_IN_CONTAINER = 8,	/* what may hold there */
	SET_ELSEWHERE = 9,	/* what may hold for an executable that is no file of the host's */
	SET_ANY_CONTAINER = 10, /* what holds in whatever container */
	SET_OWNED = 11,		/* what holds in user namespaces of whoever it names */
	SET_SUBORDINATE = 12,	/* what holds for subordinate ids: no row asks for other clauses */
	SET_CERTAIN = 16,
};

enum uncertain {
	UNCERTAIN_EXE = 1,  /* whether an open glob takes it */
	UNCERTAIN_PATH = 2, /* which one it is at all */
	UNCERTAIN_CGROUP = 4,
	UNCERTAIN_NETNS = 8,
	UNCERTAIN_CONTAINER = 16,     /* which */
	UNCERTAIN_ANY_CONTAINER = 32, /* whether it is one */
	DIMENSIONS_IN_DOUBT = 63,
	MAYBE_EXCLUDED = 64,
	MAYBE_GRANTED = 128,
};

/* In the value of a member, beside the number of its set: a cgroup that is, or may be, a container
 * whose name is not known yet. */
#define MEMBER_UNSURE (1U << 31)
/* The same: a cgroup that is the top of a container which only root could have made. */
#define MEMBER_CONTAINER (1U << 30)
/* The same: a unit below a cgroup that is unsure. If that is a container's top, it is no unit. */
#define MEMBER_UNSURE_UNIT (1U << 29)
#define MEMBER_FLAGS	   (MEMBER_UNSURE | MEMBER_CONTAINER | MEMBER_UNSURE_UNIT)

/* With the number of a CPU: the cookie of its spare row in flows. No socket's cookie grows so
 * large. */
#define SPARE_FLOW (1ULL << 63)
/* In late_tuples, for a cookie, with the attempt's initial sequence number in the low half: it was
 * judged in a spare row and let through; or its consumer has closed. */
#define ROWLESS (3ULL << 62)
#define CLOSED	(1ULL << 62)
/* Beside them: as flow.foreign. */
#define FOREIGN (1ULL << 32)

/* What exe is when there is no path to hash. Bit 0 set: no selector takes this name, because it was
 * seen in an untrusted mount namespace or is deeper than the walk goes. */
#define EXE_NONE      0
#define EXE_UNTRUSTED 1
#define EXE_UNKNOWN   2 /* there is a path, but no room to walk it */
/* In exe_name.directory: the path does not begin at the host's root. */
#define EXE_ELSEWHERE 1

enum gate { GATE_CONNECT, GATE_TC, GATE_SOCKET, GATE_BIND, GATES };

/* A run-time override of a target's mode. */
enum override { OVERRIDE_NONE, OVERRIDE_OBSERVE, OVERRIDE_ENFORCE };

/* Numbers of what judges datagrams as they arrive, in arrival_calls. */
enum arrival { OBSERVE_ARRIVAL, REFUSE_ARRIVAL };

enum use_side { USE_LOCAL, USE_REMOTE, USE_SIDES };

/* Whom a row of uses stands for. */
enum use_of {
	USE_OF_ONE,   /* an executable in a cgroup; a /24 or /64 */
	USE_OF_MANY,  /* of one user; a /16 or /48 */
	USE_OF_OTHERS /* of one side */
};

/* Whether an unresolved attempt is let in. */
enum unresolved { UNRESOLVED_DENY, UNRESOLVED_ALLOW, UNRESOLVED_ALLOW_UNLESS_ENFORCING };

enum direction { OUTBOUND, INBOUND, DIRECTIONS };

enum loss {
	LOSS_RING_FULL,	  /* an event was not sent; the counters are exact all the same */
	LOSS_FLOWS_FULL,  /* an attempt was judged and counted, but its flow is not followed */
	LOSS_USES_FULL,	  /* an attempt was counted by target, but not by consumer */
	LOSS_COUNTS_FULL, /* an attempt was not counted: costs exactness, as does the next alone */
	LOSS_TUPLES,	  /* what was counted already could not be noted: it may count twice */
	LOSS_IDENTITY,	  /* a field of the consumer could not be read */
	LOSS_GROUPS,	  /* a long list of groups that could not be read to its end */
	LOSS_CGROUPS,  /* a new cgroup whose path is too long, or that found no room in the table */
	LOSS_PATH,     /* an executable deeper than PATH_COMPONENTS: no selector takes it */
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

/* In the place of a set: groups that a row speaks of, filled up with (gid_t)-1, which nobody holds.
 */
struct gid_list {
	u32 gid[GIDS_IN_SET];
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
	u32 host_pidns; /* number of the host's pid namespace; 0: the first one */
	u32 receipts;	/* observe_receive is attached: what peers notes is asked for */
	u32 pad;
};

/* By port: the number that it has in the keys of targets. Ports with the same targets at the same
 * places have one number, so that a range is one entry; 0: nothing declares it. */
struct port_numbers {
	u16 of[PORTS];
};

/*
 * Where a target is. Rows, as { prefixlen, protocol, ports, netns, address } -> target:
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
	u16 ports; /* their number */
	u64 netns; /* 0 for routable addresses */
	struct address address;
};

/*
 * Remote consumers: { prefixlen, address } -> set of the clauses that take the address.
 *
 *  { 120, ::ffff:10.1.2.0 } -> 8   `cidr: 10.1.2.0/24`
 *  { 32, 2001:db8:: } -> 9         `cidr: 2001:db8::/32`
 */
struct source_key {
	u32 prefixlen;
	struct address address;
};

/*
 * What one fact about a consumer says: { dimension, value } -> set of the clauses that it
 * satisfies.
 *
 *  { UID, 0, 1001 } -> 5              clauses that say `uid: 1001`
 *  { EXE, 0, hash of the path } -> 6  clauses whose `exe` takes that path
 *  { CGROUP, 0, cgroup id } -> 7      clauses with a unit or container that lives there
 */
struct member_key {
	u32 dimension;
	u32 pad;
	u64 value;
};

/* A uid of a block that belongs to another one's subordinate ids (subuid(5)). */
struct subordinate_key {
	u32 prefixlen;
	u32 dimension; /* UID; GID: what the groups say of whose it is */
	u32 uid_net;
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
	u8 enforce, unresolved, clock_synced, drop;
	u32 gid_list; /* number of the first of two sets that are struct gid_list */
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

enum listener_flag {
	LISTENER_SHARES = 1, /* others can listen at this place: SO_REUSEPORT, or a device of its
				own */
	LISTENER_V6ONLY = 2,
	LISTENER_ACTIVATED = 4,	  /* pid 1, or a system .socket unit, called listen() for somebody
				     else */
	LISTENER_TRANSPARENT = 8, /* IP_TRANSPARENT: takes connections to addresses of others */
	LISTENER_BESIDE = 16, /* of those that share the place, one that came before is no stranger
			       */
	LISTENER_OWNER = 32,  /* judged, and found to be an owner of what is served there */
};

struct listener_owner {
	u64 since_ns;
	u64 cookie; /* of the listening socket */
	u64 socket; /* its struct sock, to see whether it still listens; 0: user space has found it
		     */
	u32 flags;
	u32 stranger_to; /* the target that this process is no owner of: while it listens, the
			    socket gate refuses who comes here for that target; 0: none */
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
	u8 state, pre_existing;
	u8 sequenced; /* there is a sequence number: not before the SYN, nor of a remote one */
	u8 foreign;   /* made in a network namespace that a user, not the host, owns */
	struct verdict verdict;
	struct address local, remote; /* of the socket whose cookie is the key */
	u16 local_port, remote_port;
	u32 sequence;	    /* the initial one of its SYN */
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
	u32 told; /* its event has been sent */
	char comm[16];
	u32 share; /* which counts it */
	u32 pad;
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
	u32 target;
	u32 again; /* of an attempt that was counted before */
};

/* A UDP socket of this host, and where it sends to; or, with target instead of the address and the
 * port, an attempt of its. */
struct sender_key {
	u64 cookie;
	struct address remote;
	u32 target;
	u16 port, pad;
};

struct sender {
	u64 generation;		/* of the policy that it was judged by */
	u64 judged_ns, seen_ns; /* seen_ns: of its last datagram */
	u64 cred, exec_id;	/* of the task that was judged: what it was then */
	u32 pid, target;
	u8 decision, reason, enforced, pad[5];
};

/* What was said of a connected UDP socket: kept by the socket itself, so that nobody else's sockets
 * push it out. */
struct connected {
	u64 generation; /* of the policy that it was judged by */
	struct address remote;
	u16 port, pad;
	u32 target;
	u8 decision, pad2[7];
};

/* What a UDP socket of this host has sent, by tuple as it sees it. */
struct sent {
	u64 time_ns, netns;
	u64 cookie; /* of the socket */
	u32 target; /* 0: to no target, from a declared port: what comes back is an answer */
	u8 decision;
	u8 foreign;   /* made in a network namespace that a user, not the host, owns */
	u8 refused;   /* counted as refused */
	u8 forwarded; /* by no socket of this host: answers to it are let through on their way alone
		       */
};

/* What a UDP socket has sent last, and when that was last gone into: kept by the socket itself. */
struct last_sent {
	u64 time_ns;	/* bpf_ktime_get_coarse_ns() */
	u64 generation; /* of the policy then in force */
	struct tuple tuple;
	u64 cookie; /* as sents has it; 0: it was an answer, of which nothing is noted */
};

/* What was said of a UDP socket's last datagram to an address: kept by the socket itself. */
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
	u64 generation, judged_ns, seen_ns; /* as of a sender; judged_ns: where what is sent back
					     * is an answer, when it was received */
	u8 decision, reason, enforced, pad[5];
};

/* What a gate said of the last SYN of a connection. */
struct judged_syn {
	u64 netns;   /* where it was said */
	u64 time_ns; /* 0: taken by the socket gate */
	u32 sequence;
	u8 refused;
	u8 gate;    /* GATE_TC or GATE_SOCKET, which knows no sequence */
	u8 foreign; /* said in a network namespace that a user, not the host, owns */
	u8 vouched; /* the packet was that of the socket whose flow has this tuple */
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
	u64 path, directory; /* hashes, and a flag in bit 0 */
	u64 globs; /* generation of the policy that has globs which take this path, or 0 */
};

struct glob_key {
	u64 path, generation;
};

/* Of the globs that take a path. */
struct glob_sets {
	u32 set[SHAPES]; /* 0: no more */
};

/* What is kept of a walk. */
struct exe_row {
	struct exe_name name;
	u64 until_ns;	/* renaming a directory above changes no part of the key */
	u64 generation; /* of the policy whose globs were looked at */
};

/* A path while it is walked: too large for the stack. */
struct path_walk {
	u64 name[PATH_COMPONENTS]; /* where they are, leaf first */
	u64 term[PATH_COMPONENTS]; /* what each adds to the sum */
	u64 sum;
	u32 bytes[PATH_COMPONENTS];
	u32 count, is_cut, is_untrusted, globs;
	struct exe_row found;
	struct glob_sets sets;
	u64 text[2 * NAME_BYTES / 8]; /* twice, for the verifier: the two parts of a name */
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
	u16 port, protocol;
	u32 target; /* EVENT_BIND: that this process is no owner of */
	char comm[16];
};

struct flow_event {
	struct event_header header;
	u64 cookie;
	struct flow flow;
};

struct cgroup_name {
	u64 text;    /* where the kernel has it */
	u64 head[3]; /* the first bytes, zeros behind the end */
	u64 tail;    /* the last 8 bytes */
	u32 bytes;
	u32 pad;
};

/* A cgroup that is being made. */
struct birth {
	u64 id;
	struct cgroup_name name;
	struct cgroup_name at, parent; /* where the look upwards is */
	u64 at_id, parent_id;
	u32 kind, at_kind; /* enum cgroup_kind */
	u32 above;	   /* enum above */
	u32 at_host;	   /* 1: what the agent takes for its host; 2: its parent is */
	u32 skip;	   /* bytes of the path that lead to the host's root */
	u32 pad;
	char text[CGROUP_BYTES];
};

struct cgroup_event {
	struct event_header header;
	u64 id;
	char path[CGROUP_BYTES]; /* below what the agent takes for its host; empty: too long */
	u32 by_root;		 /* only root could have made it there */
	u32 pad;
};

/* The cgroup of a container, as it is removed. */
struct gone_event {
	struct event_header header;
	u64 id;
};

struct netns_event {
	struct event_header header;
	u64 netns;
	u32 pid, pad;
};
