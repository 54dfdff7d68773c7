/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Connect observer: cgroup/connect4 and connect6, in the context of the process that calls
 * connect(). Judges and counts every attempt of a local consumer; always allows.
 */

static __always_inline void note_outbound(struct bpf_sock_addr *ctx, u16 protocol,
					  struct address *remote, u64 exe)
{
	void *task = (void *)bpf_get_current_task(), *cred = 0;
	struct edge_key key = {
		.exe = exe,
		.peer = *remote,
		.port = bpf_ntohs(ctx->user_port),
		.direction = OUTBOUND,
		.protocol = protocol,
	};

	READ(cred, task, OFF_task_struct__cred);
	READ(key.uid, cred, OFF_cred__euid);
	count_edge(&key);
}

/* Of the connect gate, which runs right behind this program in the same thread. */
static __always_inline void ask_refusal(u64 cookie, u32 target)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct refusal refusal = {.cookie = cookie, .target = target};

	if (refusals.update(&thread, &refusal))
		lose(LOSS_REFUSALS);
}

static __always_inline void judge_local(struct flow *flow, u64 cookie, u32 slot, u32 target,
					struct exe_name *name)
{
	struct verdict *verdict = &flow->verdict;
	struct tables tables;
	struct target_row *row;
	void *groups;

	verdict->target = target;
	groups = identify(&flow->consumer, name->path);
	if (!open_tables(slot, &tables) || !(row = find(tables.rows, &target))) {
		lose(LOSS_NO_ROW);
		return;
	}
	verdict->origin = flow->consumer.netns == row->home_netns ? LOOPBACK : CONTAINER;
	local_set(&tables, row, &flow->consumer, name, groups, verdict, &flow->clauses);
	decide(&tables, row, &flow->clauses, verdict, flow->opened_ns);
	if (refuses(row, verdict, GATE_CONNECT, flow->remote_port, flow->opened_ns))
		ask_refusal(cookie, target);
	record_attempt(flow, groups);
}

static __always_inline void observe_target(struct bpf_sock_addr *ctx, u16 protocol,
					   struct address *remote, u32 slot, u32 target,
					   struct exe_name *name, u64 now)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct flow *flow = new_flow(cookie);

	if (!flow)
		return;
	flow->opened_ns = now;
	flow->remote = *remote;
	flow->remote_port = bpf_ntohs(ctx->user_port);
	flow->consumer.netns = bpf_get_netns_cookie(ctx);
	flow->verdict.protocol = protocol;
	judge_local(flow, cookie, slot, target, name);
	if (protocol == IPPROTO_UDP)
		flows.delete(&cookie);
}

/* Loaded twice, for connect4 and for connect6. */
int observe_connect(struct bpf_sock_addr *ctx)
{
	u16 port = bpf_ntohs(ctx->user_port);
	u16 protocol = ctx->protocol == IPPROTO_MPTCP ? IPPROTO_TCP : ctx->protocol;
	struct settings *now = get_settings();
	struct exe_name name = {};
	struct address remote;
	bool known = declared(port);
	u32 slot, target = 0;
	u64 now_ns;

	if (!now || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
		return PASS;
	if (!known && !now->edges) {
		count_unprotected(OUTBOUND);
		return PASS;
	}
	if (!read_sockaddr(ctx, &remote))
		lose(LOSS_IDENTITY);
	slot = slot_in_force();
	if (known)
		target = target_of(slot, protocol, port, &remote, bpf_get_netns_cookie(ctx));
	if (!target) {
		count_unprotected(OUTBOUND);
		if (!now->edges)
			return PASS;
	}
	now_ns = bpf_ktime_get_boot_ns();
	if (exe_of_current(now->seed, now_ns, &name))
		tell_name(name.path); /* before any event that speaks of it */
	if (target)
		observe_target(ctx, protocol, &remote, slot, target, &name, now_ns);
	else
		note_outbound(ctx, protocol, &remote, name.path);
	return PASS;
}
