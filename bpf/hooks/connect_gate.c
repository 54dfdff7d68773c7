/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Connect gate: cgroup/connect4 and connect6, and sendmsg4 and sendmsg6 of UDP. Attached after the
 * observers, and only while at least one target is enforced. It decides nothing: it carries out
 * what the observer decided for this very attempt.
 */

/* Loaded for each of these hooks. */
int refuse_connect(struct bpf_sock_addr *ctx)
{
	u64 thread = bpf_get_current_pid_tgid(), cookie;
	struct refusal *refusal = refusals.lookup(&thread);
	struct flow *flow;
	u32 target, again;

	if (!refusal)
		return PASS;
	cookie = bpf_get_socket_cookie(ctx);
	target = refusal->cookie == cookie ? refusal->target : 0;
	again = refusal->again;
	refusals.delete(&thread);
	if (!target) /* left over from an attempt made while no gate was attached */
		return PASS;
	flow = flows.lookup(&cookie);
	if (flow && flow->state == FLOW_ATTEMPT)
		flows.delete(&cookie);
	if (!again)
		count_refused(target, GATE_CONNECT);
	return REFUSE;
}
