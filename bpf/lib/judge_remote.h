/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Judges a packet: by its attempt if known, else by its source address. */

#define PASSING_NS 10000000ULL /* from one gate to the next: microseconds, without a queue */

/* True if a verdict of one network namespace counts in another. It does not if a user owns the
 * first one, because that user can send any packet there. */
static __always_inline bool speaks_in(struct judged_syn *said, u64 netns)
{
	return said->netns == netns || !said->foreign;
}

/* True if the tc gate let this SYN through a moment ago. */
static __always_inline bool has_passed(struct judged_syn *said, u64 now)
{
	return said->gate == GATE_TC && !said->refused && now - said->time_ns < PASSING_NS;
}

/* A scratch row to judge a packet in, in softirq. */
static __always_inline struct flow *packet_row(struct tuple *here, u64 netns)
{
	u32 zero = 0;
	struct flow *flow = packet_flow.lookup(&zero), *blank = blank_flow.lookup(&zero);

	if (!flow || !blank)
		return 0;
	*flow = *blank;
	flow->opened_ns = bpf_ktime_get_boot_ns();
	flow->consumer.netns = netns;
	flow->local = here->local;
	flow->remote = here->remote;
	flow->local_port = here->local_port;
	flow->remote_port = here->remote_port;
	return flow;
}

/* The caller has set flow->remote, consumer.netns and opened_ns. Returns the row of the target, or
 * 0: the tables are inconsistent. */
static __always_inline struct target_row *judge_remote(struct flow *flow, u32 slot, u32 target)
{
	struct source_key key = {.prefixlen = 128, .address = flow->remote};
	struct tables tables;
	struct target_row *row;
	struct set *who;
	u32 *set;

	flow->verdict.target = target;
	flow->verdict.origin = REMOTE;
	flow->verdict.protocol = IPPROTO_TCP;
	if (!open_tables(slot, &tables) || !(row = find(tables.rows, &target))) {
		lose(LOSS_NO_ROW);
		return 0;
	}
	set = find(sources.lookup(&slot), &key);
	who = set_at(&tables, set ? *set : SET_MISS_SOURCE);
	if (!who) {
		lose(LOSS_NO_ROW);
		return 0;
	}
	decide(&tables, row, who, &flow->verdict, flow->opened_ns);
	return row;
}

/* The target's row if the consumer is refused, else 0. The consumer was judged, and counted as an
 * attempt, at connect(). `fresh`: not a retransmitted SYN. */
static __always_inline struct target_row *refuses_local(struct flow *flow, u32 slot, u16 port,
							bool fresh, u32 gate)
{
	struct verdict verdict = flow->verdict;
	struct target_row *row;
	struct tables tables;

	if (verdict.decision != DENIED || !open_tables(slot, &tables))
		return 0;
	row = find(tables.rows, &verdict.target);
	if (!row || !refuses(row, &verdict, gate, port, bpf_ktime_get_boot_ns()))
		return 0;
	if (fresh)
		count_refused(verdict.target, gate);
	return row;
}
