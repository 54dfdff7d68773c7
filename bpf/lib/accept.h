/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The passive side of a connection: finds its attempt if that was made on this host, and names the
 * listener and the accepting process. Connections from outside are judged here.
 */

#ifdef ACCEPTOR
static __always_inline void count_acceptor(struct served *served, struct identity *who)
{
	struct acceptor_key key = {
		.start_ns = who->start_ns,
		.exe = who->exe,
		.pid = who->pid,
		.target = served->target,
	};
	struct flow *flow = flows.lookup(&served->flow_cookie);
	u64 zero = 0, *count;

	acceptors.insert(&key, &zero); /* fails if the row exists, which is normal */
	count = acceptors.lookup(&key);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		lose(LOSS_STORAGE);
	if (flow) {
		flow->acceptor_pid = who->pid;
		flow->acceptor_start_ns = who->start_ns;
		flow->acceptor_exe = who->exe;
	}
}
#endif

#ifdef ACCEPTOR_AT_RETURN
#define EARLY_NS 1000000000ULL

/* True if the socket was accepted already; `who` is then the process that accepted it. If two
 * programs find the row, only the one that deletes it uses it. An old row belongs to an earlier
 * socket at the same memory address, which had no flow of a target. */
static __always_inline bool take_early(u64 sk, struct identity *who)
{
	struct early_acceptor *early = early_acceptors.lookup(&sk);
	u64 at_ns;

	if (!early)
		return false;
	*who = early->who;
	at_ns = early->at_ns;
	return !early_acceptors.delete(&sk) && bpf_ktime_get_boot_ns() - at_ns < EARLY_NS;
}
#endif

static __always_inline void await_acceptor(struct bpf_sock_ops *ctx, u64 server_cookie,
					   u64 flow_cookie, u32 target)
{
#ifdef ACCEPTOR
	struct served served = {.flow_cookie = flow_cookie, .target = target};

	if (unserved.update(&server_cookie, &served))
		lose(LOSS_STORAGE);
#ifdef ACCEPTOR_AT_RETURN
	struct identity who = {};

	/* a process on another CPU may accept the socket before this callback runs */
	if (take_early((u64)ctx->sk, &who)) {
		count_acceptor(&served, &who);
		unserved.delete(&server_cookie);
	}
#endif
#endif
}

/* The listener at this address, or at the wildcard of the socket's family. bind() does not let both
 * listen at once. So of two rows the newer one is valid, and the other listener is gone. */
static __always_inline struct identity *owner_at(struct bpf_sock_ops *ctx, struct tuple *here)
{
	struct owner_key key = {
		.netns = bpf_get_netns_cookie(ctx),
		.address = here->local,
		.port = here->local_port,
	};
	struct listener_owner *exact = owners.lookup(&key), *any;

	key.address.w[0] = key.address.w[1] = key.address.w[3] = 0;
	key.address.w[2] = ctx->family == AF_INET ? bpf_htonl(0xffff) : 0;
	any = owners.lookup(&key);
	if (!exact)
		return any ? &any->process : 0;
	if (any && any->since_ns > exact->since_ns)
		return &any->process;
	return &exact->process;
}

/* Copies the process that listens on the socket that accepted this connection. */
static __always_inline void copy_owner(struct bpf_sock_ops *ctx, struct tuple *here,
				       struct flow *flow)
{
	struct bpf_sock *sk = ctx->sk;
	struct identity *owner = sk ? socket_owners.sk_storage_get(sk, 0, 0) : 0;

	if (!owner)
		owner = owner_at(ctx, here);
	if (owner)
		flow->owner = *owner;
}

/* Both ends are on this host. The attempt was judged and counted at connect(); here the server's
 * side is filled in. */
static __always_inline void on_same_host(struct bpf_sock_ops *ctx, struct tuple *here,
					 u64 flow_cookie)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct flow *flow = flows.lookup(&flow_cookie);

	if (!flow ||
	    flow->server_cookie) /* the consumer has closed already; or a further subflow */
		return;
	flow->server_cookie = cookie;
	copy_owner(ctx, here, flow);
	await_acceptor(ctx, cookie, flow_cookie, flow->verdict.target);
}

static __always_inline void note_inbound(struct bpf_sock_ops *ctx)
{
	struct settings *now = get_settings();
	struct edge_key key = {.direction = INBOUND, .protocol = IPPROTO_TCP};
	struct tuple tuple = {};

	count_unprotected(INBOUND);
	if (!now || !now->edges)
		return;
	read_tuple(ctx, &tuple);
	key.port = tuple.local_port;
	key.peer = tuple.remote;
	keep_network(&key.peer);
	count_edge(&key);
}

/* Takes the cookie, or mark, of the attempt of this host that the arriving connection belongs to.
 * 0: it came from elsewhere. */
static __always_inline u64 take_tuple(struct bpf_sock_ops *ctx, struct tuple *tuple)
{
	u64 *found = tuples.lookup(tuple), cookie;
	struct flow *flow;
	u32 next = 0;

	READ(next, kernel_socket_of(ctx), OFF_tcp_sock__rcv_nxt);
	if (found) {
		cookie = *found;
		flow = flows.lookup(&cookie);
		if (flow && flow->sequenced && flow->sequence != next - 1)
			return 0;
		if (flow) {
			tuples.delete(tuple);
			return cookie;
		}
	}
	/* joins() recognises a further subflow */
	found = late_tuples.lookup(tuple);
	return found && *found & ROWLESS && (u32)*found == next - 1 ? *found : 0;
}

static __always_inline void forget_tuple(struct tuple *tuple, u64 cookie)
{
	u64 *found = tuples.lookup(tuple);

	if (found && *found == cookie)
		tuples.delete(tuple);
}

/* A consumer closes. If the passive side has not met the connection yet, its tuple is stored for
 * it. If the socket gate is attached, every tuple is stored, so that a late packet is not taken for
 * a new attempt. */
static __always_inline void release_tuple(struct bpf_sock_ops *ctx, u64 cookie, struct flow *flow)
{
	bool met = flow->server_cookie, gate = has_gate(GATE_SOCKET);
	struct tuple tuple = {};

	if (flow->verdict.origin == REMOTE || (met && !gate))
		return;
	read_tuple(ctx, &tuple);
	if (gate || flow->state == FLOW_OPEN)
		note_late(&tuple, CLOSED, flow->foreign, flow->sequence);
	if (!met)
		forget_tuple(&tuple, cookie);
}

static __always_inline void on_passive(struct bpf_sock_ops *ctx)
{
	struct tuple here = {}, there = {};
	u32 slot, target;
	u64 cookie, netns, consumer;
	struct flow *flow;

	if (!declared(ctx->local_port)) {
		note_inbound(ctx);
		return;
	}
	read_tuple(ctx, &here);
	/* the destination of the attempt is the local address here */
	here.netns = is_per_namespace(&here.local) ? bpf_get_netns_cookie(ctx) : 0;
	turn_round(&here, &there);
	consumer = take_tuple(ctx, &there);
	if (consumer) {
		on_same_host(ctx, &here, consumer);
		return;
	}
	slot = slot_in_force();
	netns = bpf_get_netns_cookie(ctx);
	target = target_of(slot, IPPROTO_TCP, here.local_port, &here.local, netns);
	if (!target && !is_transparent(kernel_socket_of(ctx)))
		target = target_delivered(slot, IPPROTO_TCP, here.local_port, netns);
	if (!target) {
		note_inbound(ctx);
		return;
	}
	if (joins(kernel_socket_of(ctx), &consumer))
		return;
	cookie = bpf_get_socket_cookie(ctx);
	flow = new_flow(cookie);
	if (!flow)
		return;
	flow->opened_ns = bpf_ktime_get_boot_ns();
	flow->consumer.netns = netns;
	flow->local = here.local;
	flow->remote = here.remote;
	flow->local_port = here.local_port;
	flow->remote_port = here.remote_port;
	flow->state = FLOW_OPEN;
	copy_owner(ctx, &here, flow);
	if (judge_remote(flow, slot, target))
		record_remote(flow);
	count_opened(target);
	await_acceptor(ctx, cookie, cookie, target);
	want_close(ctx);
	tell_flow(cookie, flow, EVENT_OPEN);
}
