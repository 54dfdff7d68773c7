/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reads where a packet goes. The namespace is in lookup_netns, written by the program that calls
 * this one. */

static __always_inline void read_lookup(struct bpf_sk_lookup *ctx, struct tuple *here)
{
	if (ctx->family == AF_INET) {
		here->local.w[2] = here->remote.w[2] = bpf_htonl(0xffff);
		here->local.w[3] = ctx->local_ip4;
		here->remote.w[3] = ctx->remote_ip4;
	} else {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			here->local.w[i] = *(volatile u32 *)&ctx->local_ip6[i];
			here->remote.w[i] = *(volatile u32 *)&ctx->remote_ip6[i];
		}
	}
	here->local_port = ctx->local_port;
	here->remote_port = bpf_ntohs(ctx->remote_port);
}

static __always_inline u64 noted_netns(void)
{
	u32 zero = 0;
	u64 *netns = lookup_netns.lookup(&zero);

	return netns ? *netns : 0;
}
