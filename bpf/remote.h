/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Judging a consumer by its address alone: one that is not on this host. */

/* A row to judge a packet in, in softirq. */
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

/* flow->remote, netns and opened_ns are set. The row of the target, or 0: tables are inconsistent.
 */
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
