/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Answers a SYN with RST|ACK in its own buffer. */

static __always_inline u16 fold(u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline bool swap_macs(struct __sk_buff *skb)
{
	u8 macs[2 * MAC_BYTES], back[2 * MAC_BYTES];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return false;
	__builtin_memcpy(back, macs + MAC_BYTES, MAC_BYTES);
	__builtin_memcpy(back + MAC_BYTES, macs, MAC_BYTES);
	return !bpf_skb_store_bytes(skb, 0, back, sizeof(back), 0);
}

static __always_inline bool store_ip4(struct __sk_buff *skb, u32 at, struct tuple *here)
{
	struct ip4_header ip = {
		.version_words = 0x45,
		.bytes_net = bpf_htons(sizeof(ip) + sizeof(struct tcp_header)),
		.fragment_net = bpf_htons(IP4_DONT_FRAGMENT),
		.hops = ANSWER_HOPS,
		.protocol = IPPROTO_TCP,
		.source = here->local.w[3],
		.destination = here->remote.w[3],
	};

	ip.check = ~fold(bpf_csum_diff(0, 0, (void *)&ip, sizeof(ip), 0));
	return !bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), 0);
}

static __always_inline bool store_ip6(struct __sk_buff *skb, u32 at, struct tuple *here)
{
	struct ip6_header ip = {
		.version_net = bpf_htonl(IP6_VERSION),
		.payload_net = bpf_htons(sizeof(struct tcp_header)),
		.next = IPPROTO_TCP,
		.hops = ANSWER_HOPS,
		.source = here->local,
		.destination = here->remote,
	};

	return !bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), 0);
}

/* Checksum of the pseudo header. An IPv4 address lacks the prefix of a mapped one. That prefix,
 * 0xffff, is zero in one's complement, so it does no harm. */
static __always_inline u16 pseudo_sum(struct tuple *here)
{
	u64 sum = bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(struct tcp_header));

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (u64)here->local.w[i] + here->remote.w[i];
	return fold(sum);
}

/*
 * Stores the TCP header with its checksum. Two cases need different contents, and a program cannot
 * tell them apart. If the kernel is still to complete the checksum (CHECKSUM_PARTIAL: lo, veth),
 * the field must hold the sum of the pseudo header. Otherwise it must hold the whole checksum.
 *
 * bpf_l4_csum_replace without BPF_F_PSEUDO_HDR serves both. It leaves the field alone in the first
 * case. In the second case it turns P, which is stored, into ~(~P + difference).
 */
static __always_inline bool store_reset(struct __sk_buff *skb, u32 at, struct syn *syn)
{
	struct tcp_header tcp = {
		.source_net = bpf_htons(syn->here.local_port),
		.destination_net = bpf_htons(syn->here.remote_port),
		.acknowledged_net = bpf_htonl(bpf_ntohl(syn->sequence_net) + 1),
		.words = sizeof(tcp) / 4 << 4,
		.flags = TCP_RST_ACK,
	};
	u64 sum = bpf_csum_diff(0, 0, (void *)&tcp, sizeof(tcp), 0);
	u16 pseudo = pseudo_sum(&syn->here);

	tcp.check = pseudo;
	return !bpf_skb_store_bytes(skb, at, &tcp, sizeof(tcp), 0) &&
	       !bpf_l4_csum_replace(skb, at + __builtin_offsetof(struct tcp_header, check), 0,
				    fold(sum + pseudo + pseudo), 0);
}

/* IP options and extension headers are cut out, not overwritten, because the kernel completes the
 * checksum at the original place of the TCP header. */
static __always_inline bool make_reset(struct __sk_buff *skb, u32 link_bytes, struct syn *syn)
{
	bool ip4 = is_mapped(&syn->here.local);
	u32 ip_bytes = ip4 ? sizeof(struct ip4_header) : sizeof(struct ip6_header);
	u32 tcp_at = link_bytes + ip_bytes;

	if (syn->at > ip_bytes &&
	    bpf_skb_adjust_room(skb, (s32)(ip_bytes - syn->at), BPF_ADJ_ROOM_NET, 0))
		return false;
	if (bpf_skb_change_tail(skb, tcp_at + sizeof(struct tcp_header), 0) ||
	    (link_bytes && !swap_macs(skb)))
		return false;
	return (ip4 ? store_ip4(skb, link_bytes, &syn->here)
		    : store_ip6(skb, link_bytes, &syn->here)) &&
	       store_reset(skb, tcp_at, syn);
}

/* The program returns what this returns. The SYN is overwritten in any case. */
static __always_inline int answer_with_reset(struct __sk_buff *skb, u32 link_bytes, struct syn *syn)
{
	return make_reset(skb, link_bytes, syn) ? bpf_redirect(skb->ifindex, 0) : TC_ACT_SHOT;
}
