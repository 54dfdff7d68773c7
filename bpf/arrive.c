/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A datagram as it arrives, called from sk_lookup: one for a socket that is not connected. A
 * datagram of a judged sender of this host goes by what was said of him; an answer passes; what is
 * left is judged by its address. The observer always allows; the gate refuses.
 */

/* Judged when it was sent, and counted; by a mode that has changed since it may be refused. */
static __always_inline bool refuses_sent(struct sent *sent, u32 slot, u16 port, u64 now)
{
	if (!is_refused(slot, sent->target, sent->decision, GATE_SOCKET, port, now))
		return false;
	if (!sent->refused)
		count_refused(sent->target, GATE_SOCKET);
	sent->refused = true;
	return true;
}

static __always_inline void put_peer(struct peer_key *key, struct peer *known, struct peer *now)
{
	if (known)
		*known = *now;
	else if (!peers.update(key, now))
		count_made(ROWS_PEERS);
	else
		lose(LOSS_TUPLES);
}

static __always_inline bool refuses_peer(struct tuple *here, u64 netns, u64 policy, u32 target,
					 u64 now)
{
	struct peer_key key = {.target = target, .address = here->remote};
	struct peer row = {.generation = policy, .judged_ns = now, .seen_ns = now}, *known;
	u32 slot = policy & 1;
	struct target_row *rules;
	struct flow *flow;
	bool is_new;

	known = peers.lookup(&key);
	if (known && known->generation == policy && is_within(known->judged_ns, now, JUDGED_NS) &&
	    known->enforced ==
		    is_refused(slot, target, known->decision, GATE_SOCKET, here->local_port, now)) {
		known->seen_ns = now;
		return known->enforced;
	}
	flow = packet_row(here, netns);
	if (!flow)
		return false;
	rules = judge_remote(flow, slot, target);
	if (!rules)
		return false;
	flow->verdict.protocol = IPPROTO_UDP;
	refuses(rules, &flow->verdict, GATE_SOCKET, here->local_port, now);
	row.decision = flow->verdict.decision;
	row.reason = flow->verdict.reason;
	row.enforced = flow->verdict.enforced;
	is_new = !known || !is_within(known->seen_ns, now, ATTEMPT_NS) ||
		 !is_verdict(&flow->verdict, known->decision, known->reason, known->enforced);
	put_peer(&key, known, &row);
	if (is_new && row.enforced)
		count_refused(target, GATE_SOCKET);
	if (is_new)
		record_remote(flow);
	return row.enforced;
}

/* What is sent back there is an answer, though it goes to a declared port. */
static __always_inline void note_peer(struct tuple *here, u64 now)
{
	struct peer_key key = {.target = ANSWERS_FROM | here->local_port, .address = here->remote};
	struct peer row = {.seen_ns = now};

	put_peer(&key, peers.lookup(&key), &row);
}

static __always_inline bool refuses_datagram(struct bpf_sk_lookup *ctx)
{
	struct tuple here = {}, there = {};
	u64 policy, netns, now;
	struct sent *sent;
	u32 slot, target;

	if (ctx->protocol != IPPROTO_UDP ||
	    (!declared(ctx->local_port) && !declared(bpf_ntohs(ctx->remote_port))))
		return false;
	netns = noted_netns();
	now = bpf_ktime_get_boot_ns();
	policy = policy_in_force();
	slot = policy & 1;
	read_lookup(ctx, &here);
	here.netns = differs_by_netns(&here) ? netns : 0;
	turn_round(&here, &there);
	sent = sents.lookup(&there);
	if (sent && sent->target && speaks(sent, netns, now))
		return refuses_sent(sent, slot, here.local_port, now);
	sent = sents.lookup(&here);
	if (sent && speaks(sent, netns, now))
		return false; /* an answer */
	target = target_of_datagram(slot, here.local_port, &here.local, netns);
	if (target && refuses_peer(&here, netns, policy, target, now))
		return true;
	if (declared(here.remote_port))
		note_peer(&here, now);
	return false;
}

int observe_arrival(struct bpf_sk_lookup *ctx)
{
	refuses_datagram(ctx);
	return SK_PASS;
}

int refuse_arrival(struct bpf_sk_lookup *ctx)
{
	return refuses_datagram(ctx) ? SK_DROP : SK_PASS;
}
