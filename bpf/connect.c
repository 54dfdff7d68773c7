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

static __always_inline void observe_target(struct bpf_sock_addr *ctx, u16 protocol,
					   struct address *remote, u32 slot, u32 target,
					   struct exe_name *name, u64 now)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct flow *flow = new_local_flow(cookie, now, remote, bpf_ntohs(ctx->user_port),
					   bpf_get_netns_cookie(ctx), protocol);

	if (!flow)
		return;
	if (judge_local(flow, slot, target, name, GATE_CONNECT))
		ask_refusal(cookie, target);
	else if (flow->state == FLOW_SPARE)
		rowless.update(&cookie, &now);
	if (protocol == IPPROTO_UDP)
		flows.delete(&cookie);
}

static __always_inline void *kernel_socket(struct bpf_sock_addr *ctx)
{
	void *sk = 0;

	READ(sk, ctx, OFF_bpf_sock_addr_kern__sk);
	return sk;
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
	if (target && joined_by(kernel_socket(ctx)))
		return PASS;
	now_ns = bpf_ktime_get_boot_ns();
	read_exe(now, now_ns, &name);
	if (target)
		observe_target(ctx, protocol, &remote, slot, target, &name, now_ns);
	else
		note_outbound(ctx, protocol, &remote, name.path);
	return PASS;
}
