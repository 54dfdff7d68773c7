/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Flow tracker: sockops. Tracks a judged attempt from SYN to close, judges connections from outside
 * at PASSIVE_ESTABLISHED, and notes listeners. Callbacks run in the caller's context only for
 * connect() and listen(); all others may run on any task.
 */

static __always_inline bool goes_to(struct flow *flow, struct tuple *tuple)
{
	return same(&flow->remote, &tuple->remote) && flow->remote_port == tuple->remote_port;
}

static __always_inline void note_rowless(struct bpf_sock_ops *ctx, struct tuple *tuple)
{
	void *sk = kernel_socket_of(ctx);

	note_late(tuple, ROWLESS, is_made_by_user(sk, bpf_get_netns_cookie(ctx)),
		  sequence_of_syn(sk));
}

static __always_inline void on_connect(struct bpf_sock_ops *ctx)
{
	u64 cookie = bpf_get_socket_cookie(ctx), *let_through = 0;
	struct flow *flow = flows.lookup(&cookie);
	struct tuple tuple = {};

	read_tuple(ctx, &tuple);
	if (!flow)
		let_through = rowless.lookup(&cookie);
	/* calls judge_rewritten() if it is loaded, and then does not return */
	if (flow ? !goes_to(flow, &tuple) || is_old(flow->opened_ns)
		 : !let_through || is_old(*let_through))
		sockops_calls.call(ctx, 0);
	if (flow)
		follow_syn(ctx, cookie, flow, &tuple);
	else if (let_through)
		note_rowless(ctx, &tuple);
}

static __always_inline void on_active(struct bpf_sock_ops *ctx)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct flow *flow = flows.lookup(&cookie);

	if (!flow || flow->state == FLOW_OPEN)
		return;
	flow->state = FLOW_OPEN;
	if (flow->verdict.enforced) /* it went to a place that no gate covers */
		lose(LOSS_REFUSALS);
	count_opened(flow->verdict.target);
	ask_again(ctx);
	tell_flow(cookie, flow, EVENT_OPEN);
}

/* Callbacks that only another program asked for. If that program overwrote the flag we had set,
 * this is the first chance to set it again. */
static __always_inline void on_others_callback(struct bpf_sock_ops *ctx)
{
	u64 cookie;

	if (asked(ctx) || !(declared(ctx->local_port) || declared(bpf_ntohl(ctx->remote_port))))
		return;
	cookie = bpf_get_socket_cookie(ctx);
	if (flows.lookup(&cookie))
		want_close(ctx);
}

static __always_inline void on_state(struct bpf_sock_ops *ctx)
{
	u64 cookie;
	struct flow *flow;

	if (ctx->args[1] != BPF_TCP_CLOSE)
		return;
	if (ctx->args[0] == BPF_TCP_LISTEN) {
		forget_listener(ctx);
		return;
	}
	cookie = bpf_get_socket_cookie(ctx);
	flow = flows.lookup(&cookie);
	if (!flow)
		return;
	release_tuple(ctx, cookie, flow);
	if (flow->state == FLOW_OPEN) {
		count_closed(flow->verdict.target);
		tell_flow(cookie, flow, EVENT_CLOSE);
	}
	flows.delete(&cookie);
}

static __always_inline void on_listen(struct bpf_sock_ops *ctx)
{
	struct settings *now = get_settings();
	struct owner_key place = {};
	struct identity owner = {};
	struct exe_name name = {};
	u64 now_ns;

	if (!now)
		return;
	now_ns = bpf_ktime_get_boot_ns();
	read_exe(now, policy_in_force(), now_ns, &name);
	identify_unaided(&owner, name.path);
	owner.netns = bpf_get_netns_cookie(ctx);
	if (read_place(ctx, &place))
		note_listener(ctx, &place, &owner, now_ns);
	tell_listener(EVENT_LISTEN, 0, &owner, bpf_get_socket_cookie(ctx), &place.address,
		      IPPROTO_TCP, place.port, now_ns);
	if (declared(place.port))
		listen_calls.call(ctx, 0); /* judge_listener() if loaded; does not return then */
}

int track_flows(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (declared(bpf_ntohl(ctx->remote_port)))
			on_connect(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (declared(bpf_ntohl(ctx->remote_port)))
			on_active(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_passive(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ctx);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ctx);
		break;
	case BPF_SOCK_OPS_RTT_CB:
	case BPF_SOCK_OPS_RTO_CB:
	case BPF_SOCK_OPS_RETRANS_CB:
		on_others_callback(ctx);
		break;
	}
	return PASS;
}
