/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Both ends of a datagram that a socket of this host sends, read from its packet. */

struct udp_header {
	u16 source_net, destination_net, bytes_net, check;
};

struct plain4 {
	struct ip4_header ip;
	struct udp_header udp;
};

struct plain6 {
	struct ip6_header ip;
	struct udp_header udp;
};

static __always_inline void set_ends4(struct tuple *tuple, struct ip4_header *ip,
				      struct udp_header *udp)
{
	tuple->local.w[2] = tuple->remote.w[2] = bpf_htonl(0xffff);
	tuple->local.w[3] = ip->source;
	tuple->remote.w[3] = ip->destination;
	tuple->local_port = bpf_ntohs(udp->source_net);
	tuple->remote_port = bpf_ntohs(udp->destination_net);
}

static __always_inline void set_ends6(struct tuple *tuple, struct ip6_header *ip,
				      struct udp_header *udp)
{
	tuple->local = ip->source;
	tuple->remote = ip->destination;
	tuple->local_port = bpf_ntohs(udp->source_net);
	tuple->remote_port = bpf_ntohs(udp->destination_net);
}

/* The slow way, for options or extension headers: the kernel knows where the UDP header is. */
static __always_inline bool read_ends(struct __sk_buff *skb, struct tuple *tuple)
{
	u16 protocol = 0, network = 0, transport = 0;
	struct udp_header udp = {};
	struct ip6_header ip6 = {};
	struct ip4_header ip4 = {};
	void *sk = 0, *head = 0;

	READ(sk, skb, OFF_sk_buff__sk);
	if (READ(protocol, sk, OFF_sock__sk_protocol) || protocol != IPPROTO_UDP)
		return false;
	READ(head, skb, OFF_sk_buff__head);
	READ(network, skb, OFF_sk_buff__network_header);
	READ(transport, skb, OFF_sk_buff__transport_header);
	READ(udp, head, transport);
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		READ(ip4, head, network);
		set_ends4(tuple, &ip4, &udp);
	} else {
		READ(ip6, head, network);
		set_ends6(tuple, &ip6, &udp);
	}
	return true;
}

/* Both ends of a datagram that a UDP socket of this host sends. The kernel has just written its
 * headers, so nearly every packet can be read without a helper. False: it is not such a
 * datagram. */
static __always_inline bool find_ends(struct __sk_buff *skb, struct tuple *tuple)
{
	void *start = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct plain4 *plain4 = start;
	struct plain6 *plain6 = start;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if ((void *)(plain4 + 1) <= end && plain4->ip.version_words == 0x45) {
			if (plain4->ip.protocol != IPPROTO_UDP)
				return false;
			set_ends4(tuple, &plain4->ip, &plain4->udp);
			return true;
		}
	} else if ((void *)(plain6 + 1) <= end) {
		if (plain6->ip.next == IPPROTO_TCP)
			return false;
		if (plain6->ip.next == IPPROTO_UDP) {
			set_ends6(tuple, &plain6->ip, &plain6->udp);
			return true;
		}
	}
	return read_ends(skb, tuple);
}
