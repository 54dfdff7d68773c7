/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Makes a judged attempt a flow, when its SYN is about to leave and both its ends are known. */

static __always_inline void read_tuple(struct bpf_sock_ops *ctx, struct tuple *tuple)
{
	if (ctx->family == AF_INET) {
		tuple->local.w[2] = tuple->remote.w[2] = bpf_htonl(0xffff);
		tuple->local.w[3] = ctx->local_ip4;
		tuple->remote.w[3] = ctx->remote_ip4;
	} else {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			tuple->local.w[i] = *(volatile u32 *)&ctx->local_ip6[i];
			tuple->remote.w[i] = *(volatile u32 *)&ctx->remote_ip6[i];
		}
	}
	tuple->local_port = ctx->local_port;
	tuple->remote_port = bpf_ntohl(ctx->remote_port);
	if (is_per_namespace(&tuple->remote))
		tuple->netns = bpf_get_netns_cookie(ctx);
}

/* Upper limit for the time from connect() to its SYN, which is normally microseconds. */
#define SYN_FOLLOWS_NS 10000000ULL

/* True if the verdict is so much older than the SYN that it may not hold any more. With
 * TCP_FASTOPEN_CONNECT, connect() sends nothing before the first write. */
static __always_inline bool is_old(u64 said_ns)
{
	return bpf_ktime_get_boot_ns() - said_ns > SYN_FOLLOWS_NS;
}

/* Asks for the close callback of this socket, and preserves the flags of other programs. */
static __always_inline void want_close(struct bpf_sock_ops *ctx)
{
	if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		lose(LOSS_STATE_CB);
}

static __always_inline bool asked(struct bpf_sock_ops *ctx)
{
	return ctx->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_STATE_CB_FLAG;
}

/* Another program may have overwritten the flag that was set when the SYN left. */
static __always_inline void ask_again(struct bpf_sock_ops *ctx)
{
	if (!asked(ctx))
		want_close(ctx);
}

static __always_inline void *kernel_socket_of(struct bpf_sock_ops *ctx)
{
	void *sk = 0;

	READ(sk, ctx, OFF_bpf_sock_ops_kern__sk);
	return sk;
}

/* The initial sequence number of the SYN that is about to leave. */
static __always_inline u32 sequence_of_syn(void *sk)
{
	u32 sequence = 0;

	READ(sequence, sk, OFF_tcp_sock__write_seq);
	return sequence;
}

/* True if a local socket connects with the source address of another host. The test covers the
 * namespace that the service lives in, because the table has all its addresses. With IPV6_FREEBIND
 * any process can connect from any IPv6 address, and the real holder of that address would be taken
 * for the consumer. */
static __always_inline bool is_misplaced(struct flow *flow, struct tuple *tuple)
{
	u32 slot = slot_in_force(), target = flow->verdict.target;
	u64 netns = flow->consumer.netns;

	return flow->verdict.origin == LOOPBACK && !is_mapped(&tuple->local) &&
	       target_delivered(slot, IPPROTO_TCP, tuple->remote_port, netns) == target &&
	       target_of(slot, IPPROTO_TCP, tuple->remote_port, &tuple->remote, netns) == target &&
	       target_of(slot, IPPROTO_TCP, tuple->remote_port, &tuple->local, netns) != target;
}

static __always_inline void follow_syn(struct bpf_sock_ops *ctx, u64 cookie, struct flow *flow,
				       struct tuple *tuple)
{
	void *sk = kernel_socket_of(ctx);

	flow->local = tuple->local;
	flow->local_port = tuple->local_port;
	flow->remote = tuple->remote; /* the final one: 0.0.0.0, or what a load balancer changed */
	flow->remote_port = tuple->remote_port;
	flow->sequence = sequence_of_syn(sk);
	flow->sequenced = true;
	flow->foreign = is_made_by_user(sk, flow->consumer.netns);
	flow->state = FLOW_SYN;
	if (is_misplaced(flow, tuple))
		flow->foreign = true;
	else if (flow->foreign ? tuples.insert(tuple, &cookie) : tuples.update(tuple, &cookie))
		lose(LOSS_TUPLES);
	want_close(ctx);
}
