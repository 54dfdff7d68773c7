/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Judges a consumer on this host: the current task. */

/* Reads the task's executable. Its name is emitted before any event that refers to it. */
static __always_inline void read_exe(struct settings *settings, u64 policy, u64 now,
				     struct exe_name *name)
{
	if (exe_of_current(settings->seed, policy, now, name))
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

/* A verdict packed into one word, because the stack has no room for the struct; 0: no verdict. */
static __always_inline u32 said_in(struct verdict *verdict)
{
	return 1U << 16 | (u32)verdict->decision << 8 | verdict->reason;
}

/* Judges, and sets verdict.enforced if `gate` has to refuse. False: the tables are inconsistent.
 * `groups`: the task's groups, for the event. */
static __always_inline bool decide_local(struct flow *flow, u32 slot, u32 target,
					 struct exe_name *name, u32 gate, void **groups,
					 bool *refused)
{
	struct verdict *verdict = &flow->verdict;
	struct tables tables;
	struct target_row *row;

	verdict->target = target;
	*groups = identify(&flow->consumer, name->path);
	if (!open_tables(slot, &tables) || !(row = find(tables.rows, &target))) {
		lose(LOSS_NO_ROW);
		return false;
	}
	verdict->origin = flow->consumer.netns == row->home_netns ? LOOPBACK : CONTAINER;
	local_set(&tables, row, &flow->consumer, name, *groups, true, verdict, &flow->clauses);
	decide(&tables, row, &flow->clauses, verdict, flow->opened_ns);
	*refused = refuses(row, verdict, gate, flow->remote_port, flow->opened_ns);
	return true;
}

/* Judges, and counts the attempt if the verdict differs from `before` (0: not judged before). True:
 * `gate` has to refuse it. */
static __always_inline bool judge_local(struct flow *flow, u32 slot, u32 target,
					struct exe_name *name, u32 gate, u32 before)
{
	void *groups;
	bool refused;

	if (!decide_local(flow, slot, target, name, gate, &groups, &refused))
		return false;
	if (said_in(&flow->verdict) != before)
		record_local(flow, groups);
	return refused;
}
