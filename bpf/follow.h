/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A judged attempt becomes a flow: its SYN is about to leave, and both its ends are known. */

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

/* Ask for the close of this socket, keeping what other programs have asked for. */
static __always_inline void want_close(struct bpf_sock_ops *ctx)
{
	if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		lose(LOSS_STATE_CB);
}

static __always_inline bool asked(struct bpf_sock_ops *ctx)
{
	return ctx->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_STATE_CB_FLAG;
}

/* Another program may have overwritten what was asked for when the SYN left. */
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

static __always_inline void follow_syn(struct bpf_sock_ops *ctx, u64 cookie, struct flow *flow,
				       struct tuple *tuple)
{
	flow->local = tuple->local;
	flow->local_port = tuple->local_port;
	flow->state = FLOW_SYN;
	if (tuples.update(tuple, &cookie))
		lose(LOSS_TUPLES);
	want_close(ctx);
}
