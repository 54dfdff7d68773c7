/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Connect observer: cgroup/connect4 and connect6, in the process that calls connect(). Judges and
 * counts every TCP attempt of a local consumer. Always allows. UDP to a target is judged by the
 * send observer.
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

	if (READ(cred, task, OFF_task_struct__cred) || READ(key.uid, cred, OFF_cred__euid))
		lose(LOSS_IDENTITY);
	count_edge(&key);
}

/* Deletes the row of an earlier connect() of this socket, because each connect() is judged on its
 * own. A connect() that failed before its SYN has left its row. The next one may be made by another
 * process, and its target may only be known at the SYN. A socket without a cookie has no row. */
static __always_inline void forget_earlier(void *sk)
{
	struct flow *flow;
	u64 cookie = 0;

	READ(cookie, sk, OFF_sock_common__skc_cookie);
	if (!cookie)
		return;
	rowless.delete(&cookie);
	flow = flows.lookup(&cookie);
	if (!flow)
		return;
	if (flow->state == FLOW_OPEN) /* another program hid its close from us */
		count_closed(flow->verdict.target);
	flows.delete(&cookie);
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
	if (judge_local(flow, slot, target, name, GATE_CONNECT, 0))
		ask_refusal(cookie, target, false);
	else if (flow->state == FLOW_SPARE && rowless.update(&cookie, &now))
		lose(LOSS_TUPLES);
	KEEP(protocol); /* to the end, else the verifier walks a third more */
}

/* Loaded twice: for connect4 and for connect6. */
int observe_connect(struct bpf_sock_addr *ctx)
{
	u16 port = bpf_ntohs(ctx->user_port);
	u64 protocol = ctx->protocol == IPPROTO_MPTCP ? IPPROTO_TCP : ctx->protocol;
	struct settings *now = get_settings();
	struct exe_name name = {};
	struct address remote;
	bool known = declared(port);
	u32 slot;
	u64 policy, now_ns, first, target = 0;

	if (!now || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
		return PASS;
	if (ctx->user_family !=
	    family_of_hook()) /* the kernel will return EAFNOSUPPORT: there is no attempt */
		return PASS;
	forget_earlier(kernel_socket(ctx));
	if (!known && !now->edges) {
		count_unprotected(OUTBOUND);
		return PASS;
	}
	if (!read_sockaddr(ctx, &remote))
		lose(LOSS_IDENTITY);
	policy = policy_in_force();
	slot = policy & 1;
	if (known)
		target = target_of(slot, protocol, port, &remote, bpf_get_netns_cookie(ctx));
	KEEP(target); /* else LLVM compares twice, and the verifier walks 12 % more */
	if (!target) {
		count_unprotected(OUTBOUND);
		if (!now->edges)
			return PASS;
	}
	if (target && (protocol == IPPROTO_UDP || joins(kernel_socket(ctx), &first)))
		return PASS;
	now_ns = bpf_ktime_get_boot_ns();
	read_exe(now, policy, now_ns, &name);
	if (target)
		observe_target(ctx, protocol, &remote, slot, target, &name, now_ns);
	else
		note_outbound(ctx, protocol, &remote, name.path);
	return PASS;
}
