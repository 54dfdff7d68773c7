/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Packet gate: tc ingress (clsact), in softirq. Refuses a SYN that the policy denies before any
 * socket sees it, and answers with RST|ACK. A SYN that cannot be read here is left to the socket
 * gate: its TCP header is beyond the packet, or behind an unknown extension header. So is every SYN
 * while `settings.gates` lacks this gate, because its verdict must not be recorded then.
 *
 * Who sent the SYN? A socket of this host was judged at connect(), and that verdict stands. Across
 * a veth the packet still belongs to that socket. Over lo it does not, so the socket is found by
 * the tuple. All other SYNs are judged by their source address. Datagrams: forward_gate.c.
 */

/* The flow of the local consumer whose socket sent this packet, or 0. The cookie is that of the
 * sending socket, so only a consumer's own packets get its verdict. The packet must also go where
 * the attempt was judged for, because NAT in the consumer's own namespace can lead it elsewhere. A
 * further MPTCP subflow may go to another address of the server. */
static __always_inline struct flow *flow_of_sender(struct __sk_buff *skb, struct tuple *here,
						   u32 target)
{
	u64 cookie = bpf_get_socket_cookie(skb), *first;
	struct flow *flow;

	if (!cookie)
		return 0;
	first = subflows.lookup(&cookie);
	flow = flows.lookup(first ? first : &cookie);
	if (!flow || flow->verdict.origin == REMOTE)
		return 0;
	if (first)
		return flow->verdict.target == target ? flow : 0;
	return leads_to(flow, here) ? flow : 0;
}

/* The flow of a local consumer, found by tuple, or 0. A user with a network namespace of their own
 * can make any tuple in it. So a tuple counts only in the namespace where it was made. */
static __always_inline struct flow *flow_of_tuple(u64 cookie, struct tuple *here, u32 target,
						  u64 netns)
{
	struct flow *flow = flows.lookup(&cookie);

	return flow && flow->consumer.netns == netns && is_judged_for(flow, here, target) ? flow
											  : 0;
}

/* True if the ingress interface belongs to a network namespace of a user. */
static __always_inline bool is_among_users(struct __sk_buff *skb)
{
	void *device = 0, *net = 0;

	READ(device, skb, OFF_sk_buff__dev);
	READ(net, device, OFF_net_device__nd_net);
	return is_of_user(net);
}

/* Judges by the source address. An admitted attempt is counted when it is established. */
static __always_inline struct target_row *refuses_source(struct tuple *here, u64 netns, u32 slot,
							 u32 target, bool fresh)
{
	struct flow *flow = packet_row(here, netns);
	struct target_row *row;

	if (!flow)
		return 0;
	row = judge_remote(flow, slot, target);
	if (!row || !refuses(row, &flow->verdict, GATE_TC, here->local_port, flow->opened_ns))
		return 0;
	if (fresh) {
		count_refused(target, GATE_TC);
		record_remote(flow);
	}
	return row;
}

/*
 * In a second namespace the sending socket is unknown, so the first namespace's verdict stands for
 * the few ms that the packet travels. In the first namespace every copy is judged again; otherwise
 * one admitted SYN could be replayed for ever.
 *
 * Over lo, a SYN without a known tuple was rewritten by NAT after connect(). It carries its
 * conntrack entry, and an RST made from it would not be translated back. The socket gate's RST is
 * translated, so that gate judges it if attached.
 */
#define LOOPBACK_IFINDEX 1 /* the same in every namespace */

static __always_inline struct target_row *refuses_syn(struct __sk_buff *skb, struct syn *syn,
						      u64 netns, u32 slot, u32 target)
{
	struct judged_syn *before = judged_syns.lookup(&syn->here);
	struct judged_syn now = {
		.netns = netns,
		.time_ns = bpf_ktime_get_boot_ns(),
		.sequence = syn->sequence_net,
		.gate = GATE_TC,
		.foreign = is_among_users(skb),
	};
	bool again = before && speaks_in(before, netns) && before->gate == GATE_TC &&
		     before->sequence == now.sequence;
	struct flow *flow = flow_of_sender(skb, &syn->here, target);
	struct target_row *row;
	u64 cookie = 0;

	now.vouched = flow != 0;
	if (!flow) {
		cookie = cookie_of_tuple(&syn->here);
		flow = flow_of_tuple(cookie, &syn->here, target, netns);
	}
	if (flow)
		row = refuses_local(flow, slot, syn->here.local_port, !again, GATE_TC);
	else if (again && before->netns != netns && has_passed(before, now.time_ns))
		return 0;
	else if (is_mark(cookie, ROWLESS))
		return 0;
	else if (skb->ifindex == LOOPBACK_IFINDEX && has_gate(GATE_SOCKET))
		return 0;
	else
		row = refuses_source(&syn->here, netns, slot, target, !again);
	now.refused = row != 0;
	if (judged_syns.update(&syn->here, &now))
		lose(LOSS_TUPLES);
	return row;
}

int refuse_packet(struct __sk_buff *skb)
{
	u32 link_bytes = skb->tc_classid & NO_LINK_HEADER ? 0 : ETHERNET_BYTES, slot, target;
	struct target_row *row;
	struct syn syn = {};
	u64 netns;

	if (may_be_datagram(skb, link_bytes))
		packet_calls.call(skb, 0); /* returns here if not loaded */
	if (is_plainly_no_syn(skb, link_bytes) || !read_syn(skb, &syn) ||
	    !declared(syn.here.local_port) || !has_gate(GATE_TC))
		return TC_ACT_UNSPEC;
	netns = netns_of(skb);
	if (!netns)
		return TC_ACT_UNSPEC;
	slot = slot_in_force();
	target = target_of(slot, IPPROTO_TCP, syn.here.local_port, &syn.here.local, netns);
	if (!target)
		return TC_ACT_UNSPEC;
	if (is_per_namespace(&syn.here.local))
		syn.here.netns = netns;
	row = refuses_syn(skb, &syn, netns, slot, target);
	if (!row)
		return TC_ACT_UNSPEC;
	return row->drop ? TC_ACT_SHOT : answer_with_reset(skb, link_bytes, &syn);
}
