/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Socket gate: sk_lookup, a link for each network namespace. The backstop at the listening socket,
 * for whatever way a SYN came; the kernel answers a refusal with its own RST.
 *
 * It is not told in which namespace it runs; the small program that calls it there is
 * (agent/kernel/trampoline.py), and notes it.
 *
 * It may run more than once for one connection: what the tc gate has said of the SYN stands, and
 * a refusal of this gate is noted under the tuple, with no namespace and the time for a sequence,
 * so that it counts once.
 */

#define MS_SHIFT 20
#define SAME_SYN                                                                                   \
	3 /* ms: runs for one packet are microseconds apart, a SYN sent again comes later */

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

/* `known`: a packet of a connection that was an attempt of its own, and comes after it is closed.
 */
static __always_inline bool refuses_remote(struct tuple *here, u64 netns, u32 slot, u32 target,
					   bool known, struct judged_syn *said)
{
	struct judged_syn now = {.refused = true};
	struct target_row *row;
	struct flow *flow = packet_row(here, netns);

	if (!flow)
		return false;
	row = judge_remote(flow, slot, target);
	if (!row || !refuses(row, &flow->verdict, GATE_SOCKET, here->local_port, flow->opened_ns))
		return false;
	now.sequence = flow->opened_ns >> MS_SHIFT;
	if (known || (said && now.sequence - said->sequence < SAME_SYN))
		return true;
	judged_syns.update(here, &now);
	count_refused(target, GATE_SOCKET);
	record_attempt(flow, 0);
	return true;
}

int refuse_lookup(struct bpf_sk_lookup *ctx)
{
	struct judged_syn *said;
	struct tuple here = {};
	u32 slot, target;
	struct flow *flow;
	u64 netns, cookie;

	if (ctx->protocol != IPPROTO_TCP || !declared(ctx->local_port))
		return SK_PASS;
	netns = noted_netns();
	read_lookup(ctx, &here);
	slot = slot_in_force();
	target = target_of(slot, IPPROTO_TCP, here.local_port, &here.local, netns);
	if (!target)
		return SK_PASS;
	if (is_per_namespace(&here.local))
		here.netns = netns;
	said = judged_syns.lookup(&here);
	if (said && said->netns) {
		if (said->refused)
			return SK_DROP;
		judged_syns.delete(&here); /* of this SYN, not of the next one */
		return SK_PASS;
	}
	cookie = cookie_of_tuple(&here);
	if (cookie == ROWLESS)
		return SK_PASS;
	flow = flows.lookup(&cookie);
	if (flow)
		return refuses_local(flow, slot, here.local_port, true, GATE_SOCKET) ? SK_DROP
										     : SK_PASS;
	return refuses_remote(&here, netns, slot, target, cookie, said) ? SK_DROP : SK_PASS;
}
