/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Judges a datagram as a packet. Called from the packet gate. It handles what the socket gate
 * cannot refuse properly: datagrams to a target with `drop`, refused here without an answer, and
 * datagrams forwarded through this host to a declared place elsewhere. All others are left to the
 * socket gate.
 */

/* The interface that forwards the packet, or 0: it is delivered here, or goes nowhere. For a route
 * with an encapsulation the kernel does not report one; the ingress interface stands for it. */
static __always_inline u32 leaves_by(struct __sk_buff *skb, struct tuple *here)
{
	struct bpf_fib_lookup way = {
		.l4_protocol = IPPROTO_UDP,
		.sport = bpf_htons(here->remote_port),
		.dport = bpf_htons(here->local_port),
		.ifindex = skb->ifindex,
	};
	int answer;

	if (is_mapped(&here->local)) {
		way.family = AF_INET;
		way.ipv4_src = here->remote.w[3];
		way.ipv4_dst = here->local.w[3];
	} else {
		way.family = AF_INET6;
		__builtin_memcpy(way.ipv6_src, &here->remote, sizeof(way.ipv6_src));
		__builtin_memcpy(way.ipv6_dst, &here->local, sizeof(way.ipv6_dst));
	}
	answer = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	return answer == BPF_FIB_LKUP_RET_SUCCESS || answer == BPF_FIB_LKUP_RET_NO_NEIGH ||
			       answer == BPF_FIB_LKUP_RET_FRAG_NEEDED ||
			       answer == BPF_FIB_LKUP_RET_UNSUPP_LWT
		       ? way.ifindex
		       : 0;
}

/* Notes a forwarded datagram, so that its answer is recognised where both ports are declared.
 * Not if it leaves by the interface it came in by: a host there could forge answers from any
 * address. */
static __always_inline void note_forwarded(struct tuple *here, u64 netns, u64 now)
{
	struct sent row = {.time_ns = now, .netns = netns, .forwarded = true}, *known;
	struct tuple there = {};

	turn_round(here, &there);
	known = sents.lookup(&there);
	if (known && !known->forwarded && is_within(known->time_ns, now, ATTEMPT_NS))
		return;
	if (sents.update(&there, &row))
		lose(LOSS_TUPLES);
	else if (!known)
		count_made(ROWS_SENTS);
}

static __always_inline bool read_datagram(struct __sk_buff *skb, struct tuple *here)
{
	struct udp_header udp;
	u32 at = 0;

	if (!find_header(skb, IPPROTO_UDP, here, &at) || !load(skb, at, &udp, sizeof(udp)))
		return false;
	here->local_port = bpf_ntohs(udp.destination_net);
	here->remote_port = bpf_ntohs(udp.source_net);
	return true;
}

int refuse_forwarded(struct __sk_buff *skb)
{
	u32 slot, target, leaves;
	struct target_row *row;
	struct tuple here = {};
	u64 policy, netns, now;
	bool refused = false;

	if (!read_datagram(skb, &here) || !declared(here.local_port) || !has_gate(GATE_TC))
		return TC_ACT_UNSPEC;
	netns = netns_of(skb);
	if (!netns)
		return TC_ACT_UNSPEC;
	policy = policy_in_force();
	slot = policy & 1;
	target = target_of(slot, IPPROTO_UDP, here.local_port, &here.local, netns);
	row = target ? find(rows.lookup(&slot), &target) : 0;
	if (!row)
		return TC_ACT_UNSPEC;
	leaves = leaves_by(skb, &here);
	if (!leaves && !row->drop)
		return TC_ACT_UNSPEC;
	now = bpf_ktime_get_boot_ns();
	here.netns = differs_by_netns(&here) ? netns : 0;
	if (is_known(&here, netns, slot, GATE_TC, now, &refused))
		return refused ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	if (refuses_peer(&here, netns, policy, target, GATE_TC, now))
		return TC_ACT_SHOT;
	if (leaves && leaves != skb->ifindex && declared(here.remote_port))
		note_forwarded(&here, netns, now);
	return TC_ACT_UNSPEC;
}
