/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Judging a consumer on this host: the current task. */

/* Its executable; told before any event that speaks of it. */
static __always_inline void read_exe(struct settings *settings, u64 now, struct exe_name *name)
{
	if (exe_of_current(settings->seed, now, name))
		tell_name(name->path);
}

/* A row for the attempt, or 0. */
static __always_inline struct flow *new_local_flow(u64 cookie, u64 now, struct address *remote,
						   u16 port, u64 netns, u16 protocol)
{
	struct flow *flow = new_flow(cookie);

	if (!flow)
		return 0;
	flow->opened_ns = now;
	flow->remote = *remote;
	flow->remote_port = port;
	flow->consumer.netns = netns;
	flow->verdict.protocol = protocol;
	return flow;
}

/* Judges and counts; true: `gate` is to refuse it. */
static __always_inline bool judge_local(struct flow *flow, u32 slot, u32 target,
					struct exe_name *name, u32 gate)
{
	struct verdict *verdict = &flow->verdict;
	struct tables tables;
	struct target_row *row;
	void *groups;
	bool refused;

	verdict->target = target;
	groups = identify(&flow->consumer, name->path);
	if (!open_tables(slot, &tables) || !(row = find(tables.rows, &target))) {
		lose(LOSS_NO_ROW);
		return false;
	}
	verdict->origin = flow->consumer.netns == row->home_netns ? LOOPBACK : CONTAINER;
	local_set(&tables, row, &flow->consumer, name, groups, verdict, &flow->clauses);
	decide(&tables, row, &flow->clauses, verdict, flow->opened_ns);
	refused = refuses(row, verdict, gate, flow->remote_port, flow->opened_ns);
	record_attempt(flow, groups);
	return refused;
}
