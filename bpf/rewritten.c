/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A connect() whose destination another program has changed after the connect observer (a load
 * balancer between sockets and services does): sockops, called by track_flows, in the context of
 * the process that connects, with the address the SYN will go to. What leads to a target is an
 * attempt on that target. It can't be refused here; the packet and the socket gate do.
 *
 * A subflow that joins an MPTCP connection comes here too, since it has no row of its own.
 */

static __always_inline struct flow *judge_again(struct bpf_sock_ops *ctx, u64 cookie, u32 slot,
						u32 target, struct tuple *tuple)
{
	struct settings *settings = get_settings();
	u64 now = bpf_ktime_get_boot_ns();
	struct exe_name name = {};
	struct flow *flow;

	if (!settings)
		return 0;
	flow = new_local_flow(cookie, now, &tuple->remote, tuple->remote_port,
			      bpf_get_netns_cookie(ctx), IPPROTO_TCP);
	if (!flow)
		return 0;
	read_exe(settings, now, &name);
	judge_local(flow, slot, target, &name, GATE_SOCKET);
	return flow;
}

int judge_rewritten(struct bpf_sock_ops *ctx)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct flow *flow = flows.lookup(&cookie);
	u32 slot = slot_in_force(), target;
	u64 first = joined_by(kernel_socket_of(ctx));
	struct tuple tuple = {};

	read_tuple(ctx, &tuple);
	if (first) {
		subflows.update(&cookie, &first);
		late_tuples.update(&tuple, &first);
		return PASS;
	}
	target = target_of(slot, IPPROTO_TCP, tuple.remote_port, &tuple.remote,
			   bpf_get_netns_cookie(ctx));
	if (target && (!flow || flow->verdict.target != target))
		flow = judge_again(ctx, cookie, slot, target, &tuple);
	if (flow)
		follow_syn(ctx, cookie, flow, &tuple);
	return PASS;
}
