/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A datagram that arrives. If a judged sender of this host sent it, that verdict applies. An answer
 * passes. Every other datagram is judged by its source address.
 */

/* The datagram was judged and counted when it was sent. It may still be refused if the mode has
 * changed since. */
static __always_inline bool refuses_sent(struct sent *sent, u32 slot, u16 port, u32 gate, u64 now)
{
	if (!is_refused(slot, sent->target, sent->decision, gate, port, now))
		return false;
	if (!sent->refused)
		count_refused(sent->target, gate);
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
					 u32 gate, u64 now)
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
		    is_refused(slot, target, known->decision, gate, here->local_port, now)) {
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
	refuses(rules, &flow->verdict, gate, here->local_port, now);
	row.decision = flow->verdict.decision;
	row.reason = flow->verdict.reason;
	row.enforced = flow->verdict.enforced;
	is_new = !known || !is_within(known->seen_ns, now, ATTEMPT_NS) ||
		 !is_verdict(&flow->verdict, known->decision, known->reason, known->enforced);
	put_peer(&key, known, &row);
	if (is_new && row.enforced)
		count_refused(target, gate);
	if (is_new)
		record_remote(flow);
	return row.enforced;
}

/* True if the datagram is known already: from a judged sender of this host, or as an answer. */
static __always_inline bool is_known(struct tuple *here, u64 netns, u32 slot, u32 gate, u64 now,
				     bool *refused)
{
	struct tuple there = {};
	struct sent *sent;

	turn_round(here, &there);
	sent = declared(here->local_port) ? sents.lookup(&there) : 0;
	if (sent && sent->target && speaks(sent, netns, now)) {
		*refused = refuses_sent(sent, slot, here->local_port, gate, now);
		return true;
	}
	/* a datagram delivered here answers a socket in this namespace; a socket in another one may
	 * have sent from an address that is not its own */
	sent = sents.lookup(here);
	return sent && (gate == GATE_TC || (!sent->forwarded && sent->netns == netns)) &&
	       speaks(sent, netns, now);
}
