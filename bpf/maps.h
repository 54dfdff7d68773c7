/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Every map, with who writes it, who reads it, and what happens when it is full. All are pinned by
 * name. Two generations of the policy tables exist side by side.
 */

/* Policy tables: inner maps that licet run makes and writes, and the programs read. The slot in
 * force is generation & 1. If a table would overflow, user space refuses the policy at compile
 * time. */
/* User space makes its inner maps without BTF. Before Linux 6.2 an inner map with BTF and one
 * without are not of the same type. */
#pragma push_macro("BPF_ANNOTATE_KV_PAIR")
#undef BPF_ANNOTATE_KV_PAIR
#define BPF_ANNOTATE_KV_PAIR(name, key, leaf)
BPF_F_TABLE("lpm_trie", struct target_key, u32, targets_inner, 262144, BPF_F_NO_PREALLOC);
BPF_F_TABLE("array", u32, struct port_numbers, port_numbers_inner, 1, 0);
BPF_F_TABLE("lpm_trie", struct source_key, u32, sources_inner, 262144, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct subordinate_key, u32, subordinates_inner, 262144, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", u32, struct target_row, rows_inner, 2 * MAX_TARGETS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct member_key, u32, members_inner, 262144, BPF_F_NO_PREALLOC);
BPF_F_TABLE("array", u32, struct set, sets_inner, 16384, 0);
#pragma pop_macro("BPF_ANNOTATE_KV_PAIR")
BPF_ARRAY_OF_MAPS(targets, "targets_inner", 2);
BPF_ARRAY_OF_MAPS(port_numbers, "port_numbers_inner", 2);
BPF_ARRAY_OF_MAPS(sources, "sources_inner", 2);
BPF_ARRAY_OF_MAPS(subordinates, "subordinates_inner", 2);
BPF_ARRAY_OF_MAPS(rows, "rows_inner", 2);
BPF_ARRAY_OF_MAPS(members, "members_inner", 2);
BPF_ARRAY_OF_MAPS(sets, "sets_inner", 2);
BPF_ARRAY(generation, u64, 1);
BPF_ARRAY(ports, u64, 1024); /* a bit for each port that any service declares */
BPF_ARRAY(settings, struct settings, 1);

/* Counters: written by the programs, read by user space. counts full: LOSS_COUNTS_FULL. */
BPF_PERCPU_HASH(counts, struct count_key, u64, 16384);
BPF_PERCPU_ARRAY(flow_counts, struct flow_count, MAX_TARGETS + 1);
/* The same for flows whose opening or close no program saw. Written by user space. */
BPF_ARRAY(found_flows, struct flow_count, MAX_TARGETS + 1);
BPF_PERCPU_ARRAY(unprotected, u64, DIRECTIONS);
BPF_PERCPU_ARRAY(losses, u64, LOSSES);

/* Run-time modes: written by user space; index 0 is the whole host. */
BPF_ARRAY(modes, struct mode, MAX_TARGETS + 1);
BPF_ARRAY(failsafe, u64, 1024); /* a bit for each port that is never refused */
/* Index: target * GATES + gate. */
BPF_PERCPU_ARRAY(refused, u64, (MAX_TARGETS + 1) * GATES);
/* By thread, from the connect observer to the gate that runs right after it. There are no more rows
 * than threads in connect(). Full: LOSS_REFUSALS. */
BPF_TABLE("hash", u64, struct refusal, refusals, 16384);
/* By thread in bind(), while the call is judged. Too large for the stack. Full: LOSS_REFUSALS. */
BPF_F_TABLE("hash", u64, struct set, bind_clauses, 1024, BPF_F_NO_PREALLOC);

/* By tuple as the receiving socket sees it. Written and read by the tc gate and the socket gate. An
 * evicted SYN is judged again. */
BPF_TABLE("lru_hash", struct tuple, struct judged_syn, judged_syns, 8192);
/* Index: number of a tc filter (the minor of its classid). Value: the network namespace of its
 * interface. */
BPF_ARRAY(tc_netns, u64, 65536);

/* The namespace in which the socket gate runs. Written by the small program that calls it. */
BPF_PERCPU_ARRAY(lookup_netns, u64, 1);
/* UDP. If a row of these maps is evicted, its datagrams are judged and counted again. */
BPF_TABLE("lru_hash", struct sender_key, struct sender, senders, 16384);
BPF_TABLE("lru_hash", struct tuple, struct sent, sents, 16384);
BPF_TABLE("lru_hash", struct peer_key, struct peer, peers, 16384);
BPF_SK_STORAGE(connected, struct connected);
/* Not pinned: a value is used only for LAST_NS. */
BPF_SK_STORAGE(last_sents, struct last_sent);
BPF_SK_STORAGE(last_judgeds, struct last_judged);
/* How many rows were made in senders, sents and peers. */
BPF_PERCPU_ARRAY(datagram_rows, u64, 3);
/* Programs that judge datagrams when they arrive: observe_arrival and refuse_arrival, by enum
 * arrival. */
BPF_PROG_ARRAY(arrival_calls, 2);
/* The program that judges datagrams at the packet gate: refuse_forwarded. */
BPF_PROG_ARRAY(packet_calls, 1);

/* Programs that other programs call. They are loaded with the gates, and their loader stores them
 * here. */
BPF_PROG_ARRAY(lookup_calls, 1);
BPF_PROG_ARRAY(sockops_calls, 1);

/* Usage by consumer. The programs make rows; user space deletes those that have been idle. */
BPF_F_TABLE("hash", struct use_key, struct use, uses, 16384, BPF_F_NO_PREALLOC);
/* How many rows of uses there are: first per side (enum use_side), then per share. Programs add one
 * per row. User space, which deletes rows, writes the counts anew. */
BPF_ARRAY(use_counts, u64, USE_SIDES * (1 + USE_SHARES));
/* By row of uses: how many attempts user space has reported, so that a restarted daemon continues
 * from there. */
BPF_F_TABLE("hash", struct use_key, struct told, told, 16384, BPF_F_NO_PREALLOC);
/* LRU: a server that forks for each connection makes a row for each. */
BPF_TABLE("lru_hash", struct acceptor_key, u64, acceptors, 8192);
BPF_TABLE("lru_hash", struct edge_key, u64, edges, 4096);

/* Flows: a row from connect() (from outside: from the handshake) to the close of the same socket.
 * Full: the attempt is judged in a spare row, one per CPU, that the loader made (SPARE_FLOW), and
 * counted as LOSS_FLOWS_FULL. Preallocated (24 MB), because a row made on demand costs each
 * connection 0.5 us. */
BPF_TABLE("hash", u64, struct flow, flows, 65536);
/* By this the passive side finds a connection that was made on this host. A row lives from the SYN
 * until the passive side has found it, or until the consumer closes. Full: LOSS_TUPLES. */
BPF_TABLE("hash", struct tuple, u64, tuples, 65536);
/* Tuples that the passive side may still need. (1) The consumer closed first, which is always so
 * for a service elsewhere (CLOSED). (2) The attempt was judged in a spare row (ROWLESS). (3) A
 * further MPTCP subflow (the value is the first one's cookie). An evicted connection counts as an
 * attempt from elsewhere. */
BPF_TABLE("lru_hash", struct tuple, u64, late_tuples, 4096);
/* By cookie of an MPTCP subflow: the cookie of the first subflow, whose flow it shares. */
BPF_TABLE("lru_hash", u64, u64, subflows, 4096);
/* Cookies of consumers' sockets whose attempt was judged in a spare row. */
BPF_TABLE("lru_hash", u64, u64, rowless, 1024);
/* By cookie of an accepted socket whose accepting process is not known yet. */
BPF_TABLE("lru_hash", u64, struct served, unserved, 65536);
#ifdef ACCEPTOR_AT_RETURN
/* The opposite case, by memory address of an accepted socket: the process is known, the flow is not
 * yet. Not pinned: a row is used for microseconds. */
BPF_TABLE("lru_hash", u64, struct early_acceptor, early_acceptors, 1024);
#endif

/* By thread, while it walks a path. There are no more rows than threads in a hook. Preallocated, so
 * that it cannot fail for lack of memory. Full: EXE_UNKNOWN, LOSS_IDENTITY. */
BPF_TABLE("hash", u64, struct path_walk, path_walks, 1024);
BPF_ARRAY(blank_walk, struct path_walk, 1);

/* Names. exe_names is a cache that only the programs use; names holds what user space has
 * stored. */
BPF_TABLE("lru_hash", struct exe_key, struct exe_row, exe_names, 4096);
/* The globs that match the paths in exe_names. */
BPF_TABLE("lru_hash", struct glob_key, struct glob_sets, exe_globs, 4096);
BPF_TABLE("lru_hash", u64, struct stored_name, names, 8192);

/* Never written. New rows start as a copy of it, because a row is too large for the stack. */
BPF_ARRAY(blank_flow, struct flow, 1);
BPF_ARRAY(blank_use, struct use, 1);
BPF_ARRAY(blank_name, struct stored_name, 1);
/* A scratch row to judge a packet in, in softirq. */
BPF_PERCPU_ARRAY(packet_flow, struct flow, 1);

/* The cgroup that is being created. Not pinned: a row is used for microseconds. */
BPF_PERCPU_ARRAY(births, struct birth, 1);

/* Listeners on declared ports, by place. Written by track_flows, and by user space for listeners
 * from before the agent. User space deletes closed ones. Any user can fill it: LOSS_STORAGE. Then
 * socket_owners has the names, and the two next maps have what verdicts depend on. */
BPF_F_TABLE("hash", struct owner_key, struct listener_owner, owners, 16384, BPF_F_NO_PREALLOC);
/* Listeners that found no room in owners and do not own the target served there. Full: crowded. */
BPF_F_TABLE("hash", struct owner_key, struct listener_owner, more_strangers, 16384,
	    BPF_F_NO_PREALLOC);
/* Listeners that found no room in owners: owners of the target, and transparent listeners that only
 * root could have made. Full: LOSS_STORAGE. */
BPF_F_TABLE("hash", struct owner_key, struct listener_owner, more_owners, 16384, BPF_F_NO_PREALLOC);
/* By target: the last time at which a stranger's listener found no room in any map. Until user
 * space has noted every listener, consumers reach only known owners. Index 0: the time of user
 * space's last scan that noted all. */
BPF_ARRAY(crowded, u64, MAX_TARGETS + 1);

/* The process of a listener that its place does not identify: it shares the place (SO_REUSEPORT),
 * or found no room in owners. Each accepted socket inherits the value, which costs that connection
 * 1.6 us. */
struct socket_owners_table_t {
	int key;
	struct identity leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	u32 flags;
};
__attribute__((section("maps/sk_storage"))) struct socket_owners_table_t socket_owners = {
	.flags = BPF_F_NO_PREALLOC | BPF_F_CLONE,
};
BPF_ANNOTATE_KV_PAIR(socket_owners, int, struct identity);

/* The program that judges listeners: loaded with the gates. */
BPF_PROG_ARRAY(listen_calls, 1);
/* By target: consumers that the socket gate refused because a stranger listens at their
 * destination. */
BPF_PERCPU_ARRAY(misled, u64, MAX_TARGETS + 1);

/* Events to user space. Flows, and events that many remote hosts can cause, have a ring buffer of
 * their own with half of the room, so they crowd out nothing else. Full: LOSS_RING_FULL. */
BPF_RINGBUF_OUTPUT(ring, 256);
BPF_RINGBUF_OUTPUT(bulk, 256);

static __always_inline void lose(u32 cause)
{
	u64 *count = losses.lookup(&cause);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline struct settings *get_settings(void)
{
	u32 zero = 0;

	return settings.lookup(&zero);
}
