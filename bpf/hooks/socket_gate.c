/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Socket gate: sk_lookup, one link per network namespace. The last gate before the listening
 * socket, whichever way a SYN came. The kernel answers a refusal with its own RST.
 *
 * An sk_lookup program cannot find out its network namespace. A small program per namespace
 * (agent/kernel/attach/netns_trampoline.py) stores the cookie in lookup_netns, then tail-calls this
 * one.
 *
 * The program may run several times for one connection. (1) For a SYN that the tc gate has let
 * through; it is not judged again if it comes at once. (2) Under SYN cookies (SYN flood), for the
 * SYN and again for the ACK one round trip later, which looks the same. (3) For stray segments. So
 * every run must reach the same result, by the connection's attempt or by its address. A refusal is
 * noted under the tuple, so that it counts once.
 */

/* True if the listener that this packet goes to accepts foreign addresses (IP_TRANSPARENT). The
 * packet has no socket yet. */
static __always_inline bool goes_to_transparent(struct tuple *here, u64 netns)
{
	struct taker listener = {};

	find_taker(here, netns, &listener);
	return listener.flags & LISTENER_TRANSPARENT;
}

/* `known`: the packet belongs to a connection from this host that is closed already. Such an
 * attempt was counted, so it is refused without being counted again. */
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

/* Judges the consumer itself; refuses_misled() judges the listener. */
static __always_inline bool refuses_consumer(struct tuple *here, u64 netns, u32 slot, u32 target,
					     struct judged_syn *said)
{
	struct flow *flow;
	u64 cookie;

	if (said && speaks_in(said, netns) && has_passed(said, bpf_ktime_get_boot_ns()) &&
	    has_gate(GATE_TC)) {
		said->time_ns = 0; /* the verdict holds for this SYN, not for the next */
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
		arrival_calls.call(ctx, REFUSE_ARRIVAL); /* returns here if not loaded */
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
