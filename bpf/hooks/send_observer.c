/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Send observer, in the process that sends. cgroup/sendmsg4 and sendmsg6: a datagram to an address.
 * connect4 and connect6: a UDP socket that connects, because its later send() reaches no hook.
 * Judges each; counts the first one of a socket to a target. Always allows.
 */

static __always_inline bool is_connect(void)
{
	u32 type = ATTACH_TYPE;

	return type == BPF_CGROUP_INET4_CONNECT || type == BPF_CGROUP_INET6_CONNECT;
}

/* True if the verdict on the last datagram still holds for this one. */
static __always_inline bool still_holds(struct sender *said, struct sender *now, u16 port)
{
	return said->generation == now->generation &&
	       is_within(said->judged_ns, now->seen_ns, JUDGED_NS) && is_same_task(said, now) &&
	       said->enforced == is_refused(now->generation & 1, said->target, said->decision,
					    GATE_CONNECT, port, now->seen_ns);
}

/* Stores the verdict in the socket. It applies to the socket's datagrams until its next
 * connect(). `target` 0: no target is at that address. */
static __always_inline void keep_connected(struct bpf_sock_addr *ctx, struct sender_key *key,
					   u32 target, u8 decision, u64 policy)
{
	struct connected *kept;

	if (!ctx->sk)
		return;
	kept = connected.sk_storage_get(ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept) {
		lose(LOSS_STORAGE);
		return;
	}
	kept->generation = policy;
	kept->remote = key->remote;
	kept->port = key->port;
	kept->target = target;
	kept->decision = decision;
}

static __always_inline void judge_sender(struct bpf_sock_addr *ctx, struct sender_key *key,
					 u16 own_port, struct sender *now, u64 netns)
{
	u32 slot = now->generation & 1;
	struct settings *settings = get_settings();
	struct exe_name name = {};
	struct flow *flow;
	void *groups;
	bool refused, is_new;
	u32 target = target_of(slot, IPPROTO_UDP, key->port, &key->remote, netns);

	if (!target && is_connect())
		keep_connected(ctx, key, 0, 0, now->generation);
	if (!target || !settings ||
	    answers(own_port, &key->remote, key->port, slot, target, netns, now->seen_ns))
		return;
	flow = new_local_flow(key->cookie, now->seen_ns, &key->remote, key->port, netns,
			      IPPROTO_UDP);
	if (!flow)
		return;
	read_exe(settings, now->generation, now->seen_ns, &name);
	if (decide_local(flow, slot, target, &name, GATE_CONNECT, &groups, &refused)) {
		set_verdict(now, &flow->verdict);
		is_new = is_new_attempt(key->cookie, now, &flow->verdict);
		if (is_new)
			record_local(flow, groups);
		if (refused)
			ask_refusal(key->cookie, target, !is_new);
		remember_sender(key, now);
		if (is_connect() && !refused)
			keep_connected(ctx, key, target, flow->verdict.decision, now->generation);
	}
	flows.delete(&key->cookie);
}

/* True if the last datagram went to the same place a moment ago, and was let pass. If false, the
 * stored verdict is invalidated. Uses the coarse clock, which costs a third of the exact one. */
static __always_inline bool is_as_last(struct bpf_sock *sk, struct sender_key *key,
				       struct sender *now)
{
	struct last_judged *last = sk ? last_judgeds.sk_storage_get(sk, 0, 0) : 0;

	if (!last)
		return false;
	if (last->port == key->port && same(&last->remote, &key->remote) &&
	    last->said.generation == now->generation && is_same_task(&last->said, now) &&
	    is_within(last->time_ns, bpf_ktime_get_coarse_ns(), LAST_NS))
		return true;
	last->time_ns = 0;
	return false;
}

/* If there is no room, the next datagram is looked up as well. */
static __always_inline void keep_last(struct bpf_sock *sk, struct sender_key *key,
				      struct sender *said)
{
	struct last_judged *last =
		sk ? last_judgeds.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (!last)
		return;
	last->time_ns = bpf_ktime_get_coarse_ns();
	last->said = *said;
	last->remote = key->remote;
	last->port = key->port;
}

/* Loaded for each of these hooks. */
int observe_send(struct bpf_sock_addr *ctx)
{
	struct sender_key key = {.port = bpf_ntohs(ctx->user_port)};
	struct sender now = {}, *known;

	if (is_connect() && ctx->user_family != family_of_hook())
		return PASS; /* EAFNOSUPPORT; or AF_UNSPEC, which disconnects the socket */
	if (ctx->protocol != IPPROTO_UDP || !declared(key.port))
		return PASS;
	if (!read_sockaddr(ctx, &key.remote))
		lose(LOSS_IDENTITY);
	now.generation = policy_in_force();
	read_task(&now);
	if (!is_connect() && is_as_last(ctx->sk, &key, &now))
		return PASS;
	key.cookie = bpf_get_socket_cookie(ctx);
	now.seen_ns = bpf_ktime_get_boot_ns();
	known = senders.lookup(&key);
	if (is_connect() || !known || !still_holds(known, &now, key.port)) {
		judge_sender(ctx, &key, port_of(kernel_socket(ctx)), &now,
			     bpf_get_netns_cookie(ctx));
		return PASS;
	}
	known->seen_ns = now.seen_ns;
	if (known->enforced)
		ask_refusal(key.cookie, known->target, true);
	else if (known->decision == ALLOWED)
		keep_last(ctx->sk, &key, known);
	return PASS;
}
