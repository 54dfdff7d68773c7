/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Judges a connect() again where the connect observer's verdict does not hold. sockops, called by
 * track_flows in the process that sends the SYN, with the final destination. There are three cases.
 * (1) Another program changed the destination, as socket-level load balancers do. (2) The
 * destination has a local route that the table lacks, and the route is not known before connect()
 * has looked it up. (3) The SYN leaves long after connect(), at the first write.
 *
 * An attempt on a target is judged by that target, and counted again if the verdict differs. It
 * cannot be refused here; the packet gate and the socket gate do that.
 *
 * A subflow that joins an MPTCP connection also comes here, because it has no row of its own.
 */

static __always_inline struct flow *judge_again(struct bpf_sock_ops *ctx, u64 cookie, u64 policy,
						u32 target, struct tuple *tuple)
{
	struct settings *settings = get_settings();
	u64 now = bpf_ktime_get_boot_ns();
	struct flow *flow = flows.lookup(&cookie);
	u32 before = flow && flow->verdict.target == target ? said_in(&flow->verdict) : 0;
	struct exe_name name = {};

	if (!settings)
		return 0;
	flow = new_local_flow(cookie, now, &tuple->remote, tuple->remote_port,
			      bpf_get_netns_cookie(ctx), IPPROTO_TCP);
	if (!flow)
		return 0;
	read_exe(settings, policy, now, &name);
	/* the gate that refuses it reads the row */
	judge_local(flow, policy & 1, target, &name, GATE_SOCKET, before);
	return flow;
}

int judge_rewritten(struct bpf_sock_ops *ctx)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct flow *flow = flows.lookup(&cookie);
	u64 policy = policy_in_force();
	u32 slot = policy & 1, target;
	void *sk = kernel_socket_of(ctx);
	struct tuple tuple = {};
	u64 first, netns;

	read_tuple(ctx, &tuple);
	if (joins(sk, &first)) {
		if (!first)
			note_late(&tuple, CLOSED, is_made_by_user(sk, bpf_get_netns_cookie(ctx)),
				  sequence_of_syn(sk));
		else if (subflows.update(&cookie, &first) | late_tuples.update(&tuple, &first))
			lose(LOSS_TUPLES);
		return PASS;
	}
	netns = bpf_get_netns_cookie(ctx);
	target = target_of(slot, IPPROTO_TCP, tuple.remote_port, &tuple.remote, netns);
	if (!target && has_local_route(sk) && !is_elsewhere(slot, &tuple.remote, netns))
		target = target_delivered(slot, IPPROTO_TCP, tuple.remote_port, netns);
	if (target && !flow &&
	    rowless.delete(&cookie)) /* it had not been let through as an attempt */
		uncount_unprotected(OUTBOUND);
	if (target && (!flow || flow->verdict.target != target || is_old(flow->opened_ns)))
		flow = judge_again(ctx, cookie, policy, target, &tuple);
	if (flow && flow->state == FLOW_SPARE)
		note_late(&tuple, flow->verdict.enforced ? CLOSED : ROWLESS,
			  is_made_by_user(sk, netns), sequence_of_syn(sk));
	else if (flow)
		follow_syn(ctx, cookie, flow, &tuple);
	return PASS;
}
