/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Every map, with who writes it, who reads it, and what happens when it is full.
 * All are pinned by name; two generations of the policy tables stand side by side.
 */

/* Policy tables: written by licet run into inner maps of its own, read by the programs. The slot in
 * force is generation & 1. A full table is refused at compile time, in user space. */
/* User space makes its inner maps without BTF, and before Linux 6.2 an inner map that has BTF is
 * not of the same kind as one without. */
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
BPF_ARRAY(ports, u64, 1024); /* a bit for each port that anything declares */
BPF_ARRAY(settings, struct settings, 1);

/* Counters: written by the programs, read by user space. counts full: LOSS_COUNTS_FULL. */
BPF_PERCPU_HASH(counts, struct count_key, u64, 16384);
BPF_PERCPU_ARRAY(flow_counts, struct flow_count, MAX_TARGETS + 1);
/* The same of flows whose opening, or close, no program saw: written by user space. */
BPF_ARRAY(found_flows, struct flow_count, MAX_TARGETS + 1);
BPF_PERCPU_ARRAY(unprotected, u64, DIRECTIONS);
BPF_PERCPU_ARRAY(losses, u64, LOSSES);

/* Run-time modes: written by user space; index 0 is the whole host. */
BPF_ARRAY(modes, struct mode, MAX_TARGETS + 1);
BPF_ARRAY(failsafe, u64, 1024); /* a bit for each port that is never refused */
/* By target * GATES + gate. */
BPF_PERCPU_ARRAY(refused, u64, (MAX_TARGETS + 1) * GATES);
/* By thread, from the connect observer to the gate right behind it: there are no more of them than
 * threads in connect(). Full: LOSS_REFUSALS. */
BPF_TABLE("hash", u64, struct refusal, refusals, 16384);
/* By thread in bind(), while it is judged: too large for the stack. Full: LOSS_REFUSALS. */
BPF_F_TABLE("hash", u64, struct set, bind_clauses, 1024, BPF_F_NO_PREALLOC);

/* By tuple as the receiving socket sees it: written by the tc gate and the socket gate, read by
 * both. What is pushed out is judged again. */
BPF_TABLE("lru_hash", struct tuple, struct judged_syn, judged_syns, 8192);
/* By number of a tc filter (the minor of its classid): the namespace of its interface. */
BPF_ARRAY(tc_netns, u64, 65536);

/* Which namespace the socket gate runs in: written by the small program that calls it. */
BPF_PERCPU_ARRAY(lookup_netns, u64, 1);
/* UDP. Of each: what is pushed out is judged and counted again. */
BPF_TABLE("lru_hash", struct sender_key, struct sender, senders, 16384);
BPF_TABLE("lru_hash", struct tuple, struct sent, sents, 16384);
BPF_TABLE("lru_hash", struct peer_key, struct peer, peers, 16384);
BPF_SK_STORAGE(connected, struct connected);
/* Not pinned: of use for LAST_NS. */
BPF_SK_STORAGE(last_sents, struct last_sent);
BPF_SK_STORAGE(last_judgeds, struct last_judged);
/* Rows made in senders, sents and peers. */
BPF_PERCPU_ARRAY(datagram_rows, u64, 3);
/* Judges datagrams as they arrive: observe_arrival and refuse_arrival, which share a number each.
 */
BPF_PROG_ARRAY(arrival_calls, 2);
/* Judges datagrams at the packet gate: refuse_forwarded. */
BPF_PROG_ARRAY(packet_calls, 1);

/* Programs that others call: loaded with the gates, put here by their loader. */
BPF_PROG_ARRAY(lookup_calls, 1);
BPF_PROG_ARRAY(sockops_calls, 1);

/* Usage by consumer: rows made by the programs; user space deletes those that have been idle. */
BPF_F_TABLE("hash", struct use_key, struct use, uses, 16384, BPF_F_NO_PREALLOC);
/* How many rows of uses there are: all of each side (enum use_side), then by share. Programs add;
 * user space, which deletes rows, counts anew. */
BPF_ARRAY(use_counts, u64, USE_SIDES * (1 + USE_SHARES));
/* By row of uses: how many attempts user space has told, so that a restarted daemon goes on from
 * there. */
BPF_F_TABLE("hash", struct use_key, struct told, told, 16384, BPF_F_NO_PREALLOC);
/* LRU: a server that forks for each connection makes a row for each. */
BPF_TABLE("lru_hash", struct acceptor_key, u64, acceptors, 8192);
BPF_TABLE("lru_hash", struct edge_key, u64, edges, 4096);

/* Flows: a row from connect() (or, from outside, from the handshake) to the close of the same
 * socket. Full: the attempt is judged in a spare row, one for each CPU, that the loader
 * made (SPARE_FLOW), and counted as LOSS_FLOWS_FULL.
 * Allocated beforehand (24 MB): a row made on demand costs each connection 0.5 us. */
BPF_TABLE("hash", u64, struct flow, flows, 65536);
/* Where the passive side finds a connection that was made on this host: from the SYN until it has
 * found it, or until the consumer closes. Full: LOSS_TUPLES. */
BPF_TABLE("hash", struct tuple, u64, tuples, 65536);
/* Those whose consumer closed before the passive side came, which for a service elsewhere is all of
 * them (CLOSED), those of ROWLESS attempts, and of MPTCP's further subflows (the first one's
 * cookie). What is pushed out counts as an attempt from elsewhere. */
BPF_TABLE("lru_hash", struct tuple, u64, late_tuples, 4096);
/* By cookie of an MPTCP subflow: the first subflow of its connection, whose flow it belongs to. */
BPF_TABLE("lru_hash", u64, u64, subflows, 4096);
/* Cookies of consumers' sockets whose attempt was judged in a spare row. */
BPF_TABLE("lru_hash", u64, u64, rowless, 1024);
/* By cookie of an accepted socket whose process is not known yet. */
BPF_TABLE("lru_hash", u64, struct served, unserved, 65536);
#ifdef ACCEPTOR_AT_RETURN
/* By address of an accepted socket, the other way round: the process is known, the flow not yet.
 * Not pinned: a row is of use for microseconds. */
BPF_TABLE("lru_hash", u64, struct early_acceptor, early_acceptors, 1024);
#endif

/* By thread, while it walks a path: there are no more of them than threads in a hook. Allocated
 * beforehand, so that it can't fail for want of memory. Full: EXE_UNKNOWN, LOSS_IDENTITY. */
BPF_TABLE("hash", u64, struct path_walk, path_walks, 1024);
BPF_ARRAY(blank_walk, struct path_walk, 1);

/* Names: exe_names is a cache of the programs' own; names is what user space has stored. */
BPF_TABLE("lru_hash", struct exe_key, struct exe_row, exe_names, 4096);
/* Of paths that globs take: what goes with their rows in exe_names. */
BPF_TABLE("lru_hash", struct glob_key, struct glob_sets, exe_globs, 4096);
BPF_TABLE("lru_hash", u64, struct stored_name, names, 8192);

/* Never written: what a new row starts from, because it is too large for the stack. */
BPF_ARRAY(blank_flow, struct flow, 1);
BPF_ARRAY(blank_use, struct use, 1);
BPF_ARRAY(blank_name, struct stored_name, 1);
/* Judges a packet, in softirq. */
BPF_PERCPU_ARRAY(packet_flow, struct flow, 1);

/* The cgroup that is being made. Not pinned: of use for microseconds. */
BPF_PERCPU_ARRAY(births, struct birth, 1);

/* Who listens where, of declared ports. Written by track_flows, and by user space for listeners
 * from before the agent; user space deletes those that are gone. Full, which anybody can bring
 * about: LOSS_STORAGE; names are kept by socket_owners, what a verdict rests on by the two that
 * follow. */
BPF_F_TABLE("hash", struct owner_key, struct listener_owner, owners, 16384, BPF_F_NO_PREALLOC);
/* Of those that found no room in owners: who is no owner of what is served there. Full: crowded. */
BPF_F_TABLE("hash", struct owner_key, struct listener_owner, more_strangers, 16384,
	    BPF_F_NO_PREALLOC);
/* The same: who is an owner, and transparent listeners that only root could have made. Full:
 * LOSS_STORAGE. */
BPF_F_TABLE("hash", struct owner_key, struct listener_owner, more_owners, 16384, BPF_F_NO_PREALLOC);
/* By target: when a stranger's listener found no room at all. Until user space has noted each one,
 * consumers reach only who is known for an owner. At 0: the time of its last look that did. */
BPF_ARRAY(crowded, u64, MAX_TARGETS + 1);

/* The process of listeners that the place does not tell: which share it (SO_REUSEPORT), or found no
 * room in owners. Inherited by each socket accepted from it, which costs that connection 1.6 us. */
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

/* Judges who listens: loaded with the gates. */
BPF_PROG_ARRAY(listen_calls, 1);
/* By target: consumers that the socket gate refused because a stranger listens where they go. */
BPF_PERCPU_ARRAY(misled, u64, MAX_TARGETS + 1);

/* Events to user space. What many can make from elsewhere, and flows, have half of the room to
 * themselves: they crowd out nothing else. Full: LOSS_RING_FULL. */
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
