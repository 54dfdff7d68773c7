/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Judges a datagram for a socket that is not connected. Called from sk_lookup. The observer always
 * allows; the gate refuses.
 */

/* True if a socket in this namespace sent it. Then that socket's own row tells which datagrams
 * answer it. */
static __always_inline bool is_from_here(struct tuple *here, u64 netns, u64 now)
{
	struct tuple there = {};
	struct sent *sent;

	turn_round(here, &there);
	sent = sents.lookup(&there);
	return sent && (!sent->netns || sent->netns == netns) &&
	       is_within(sent->time_ns, now, ATTEMPT_NS);
}

/* True if datagrams from this port must be noted in peers. If every service of the port is on this
 * host, nothing reads the note. */
static __always_inline bool may_need_answer(u16 remote_port)
{
	struct settings *now = get_settings();

	return now && now->receipts && declared(remote_port);
}

/* Notes that datagrams sent back to this peer are answers, although they go to a declared port. The
 * note counts once a socket has received a datagram from the peer (receive_observer.c). */
static __always_inline void note_peer(struct tuple *here, u64 now)
{
	struct peer_key key = {
		.target = answers_from(here->local_port, here->remote_port),
		.address = here->remote,
	};
	struct peer row = {.seen_ns = now}, *known = peers.lookup(&key);

	if (known)
		known->seen_ns = now;
	else
		put_peer(&key, 0, &row);
}

static __always_inline bool refuses_datagram(struct bpf_sk_lookup *ctx)
{
	struct tuple here = {};
	u64 policy, netns, now;
	bool refused = false;
	u32 target;

	if (ctx->protocol != IPPROTO_UDP ||
	    (!declared(ctx->local_port) && !may_need_answer(bpf_ntohs(ctx->remote_port))))
		return false;
	netns = noted_netns();
	now = bpf_ktime_get_boot_ns();
	policy = policy_in_force();
	read_lookup(ctx, &here);
	here.netns = differs_by_netns(&here) ? netns : 0;
	if (is_known(&here, netns, policy & 1, GATE_SOCKET, now, &refused))
		return refused;
	target = target_of_datagram(policy & 1, here.local_port, &here.local, netns);
	if (target && refuses_peer(&here, netns, policy, target, GATE_SOCKET, now))
		return true;
	if (may_need_answer(here.remote_port) && !is_from_here(&here, netns, now))
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
