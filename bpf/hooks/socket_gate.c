/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Socket gate: sk_lookup, a link for each network namespace. The backstop at the listening socket,
 * for whatever way a SYN came; the kernel answers a refusal with its own RST.
 *
 * It is not told in which namespace it runs; the small program that calls it there is
 * (agent/kernel/attach/netns_trampoline.py), and notes it.
 *
 * It may run more than once for one connection: for a SYN that the tc gate has let by, which is not
 * judged again if it comes at once; for a SYN and, where cookies are sent for it (SYN flood), for
 * the ACK one round trip later, which looks the same; for stray segments. So each run must come to
 * the same result: by the attempt it comes from, or by its address. A refusal is noted under the
 * tuple, so that it counts once.
 */

/* Would the listener that this goes to take what is addressed to others? There is no socket yet. */
static __always_inline bool goes_to_transparent(struct tuple *here, u64 netns)
{
	struct taker listener = {};

	find_taker(here, netns, &listener);
	return listener.flags & LISTENER_TRANSPARENT;
}

/* `known`: a packet of a connection that was an attempt of its own, and comes after it is closed.
 */
static __always_inline bool refuses_remote(struct tuple *here, u64 netns, u32 slot, u32 target,
					   bool known, struct judged_syn *said)
{
	struct target_row *row;
	struct flow *flow = packet_row(here, netns);

	if (!flow)
		return false;
	row = judge_remote(flow, slot, target);
	if (!row || !refuses(row, &flow->verdict, GATE_SOCKET, here->local_port, flow->opened_ns))
		return false;
	if (known || !is_fresh_syn(here, netns, said, flow->opened_ns))
		return true;
	count_refused(target, GATE_SOCKET);
	record_remote(flow);
	return true;
}

/* By the consumer's own right. */
static __always_inline bool refuses_consumer(struct tuple *here, u64 netns, u32 slot, u32 target,
					     struct judged_syn *said)
{
	struct flow *flow;
	u64 cookie;

	if (said && speaks_in(said, netns) && has_passed(said, bpf_ktime_get_boot_ns()) &&
	    has_gate(GATE_TC)) {
		said->time_ns = 0; /* of this SYN, not of the next one */
		return false;
	}
	cookie = cookie_of_tuple(here);
	if (is_mark(cookie, ROWLESS))
		return false;
	flow = flows.lookup(&cookie);
	if (flow && speaks_for(flow, here, target, netns, said))
		return refuses_local(flow, slot, here->local_port, true, GATE_SOCKET);
	return refuses_remote(here, netns, slot, target, is_mark(cookie, CLOSED), said);
}

int refuse_lookup(struct bpf_sk_lookup *ctx)
{
	struct judged_syn *said;
	struct tuple here = {};
	u32 slot, target;
	u64 netns;

	if (ctx->protocol == IPPROTO_UDP)
		arrival_calls.call(ctx, REFUSE_ARRIVAL); /* back here where it is not loaded */
	if (ctx->protocol != IPPROTO_TCP || !declared(ctx->local_port))
		return SK_PASS;
	netns = noted_netns();
	read_lookup(ctx, &here);
	slot = slot_in_force();
	target = target_of(slot, IPPROTO_TCP, here.local_port, &here.local, netns);
	if (!target && !goes_to_transparent(&here, netns))
		target = target_delivered(slot, IPPROTO_TCP, here.local_port, netns);
	if (!target)
		return SK_PASS;
	if (is_per_namespace(&here.local))
		here.netns = netns;
	said = judged_syns.lookup(&here);
	if (refuses_consumer(&here, netns, slot, target, said) ||
	    refuses_misled(&here, netns, slot, target, said))
		return SK_DROP;
	return SK_PASS;
}
