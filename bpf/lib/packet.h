/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A packet at a tc filter: where it came in, its ends; a TCP SYN, and answering it with RST|ACK in
 * its own buffer. Offsets of reads are from the network header, so they do not ask whether there is
 * a link-layer header.
 */

/* linux/if_ether.h, linux/in.h, linux/in6.h and linux/pkt_cls.h */
#define ETH_P_IP	    0x0800
#define ETH_P_IPV6	    0x86DD
#define ETHERNET_BYTES	    14
#define MAC_BYTES	    6
#define IPPROTO_HOPOPTS	    0
#define IPPROTO_ROUTING	    43
#define IPPROTO_FRAGMENT    44
#define IPPROTO_DSTOPTS	    60
#define TC_ACT_UNSPEC	    (-1) /* let the filters behind decide */
#define TC_ACT_SHOT	    2
#define TCP_SYN		    0x02
#define TCP_RST_ACK	    0x14
#define TCP_FIN_SYN_RST_ACK 0x17
#define IP4_DONT_FRAGMENT   0x4000
#define IP4_FRAGMENT_AT	    0x1fff
#define IP6_FRAGMENT_AT	    0xfff8
#define IP6_VERSION	    0x60000000
#define ANSWER_HOPS	    64
#define TCP_START_BYTES	    8 /* ports and sequence number: the least that a fragment holds */
#define EXTENSIONS	    8 /* headers of an IPv6 packet that are gone through */

struct ip4_header {
	u8 version_words, service;
	u16 bytes_net, id, fragment_net;
	u8 hops, protocol;
	u16 check;
	u32 source, destination;
};

struct ip6_header {
	u32 version_net;
	u16 payload_net;
	u8 next, hops;
	struct address source, destination;
};

/* As long as any other, if it is a fragment header; else words says how much more there is. */
struct ip6_extension {
	u8 next, words;
	u16 fragment_net;
	u32 rest;
};

struct tcp_header {
	u16 source_net, destination_net;
	u32 sequence_net, acknowledged_net;
	u8 words, flags;
	u16 window, check, urgent;
};

/* What our filter says about its interface, in the minor of its classid (a program is not shown the
 * major): whether packets have no link-layer header, and the number in tc_netns of the namespace.
 * bpf_get_netns_cookie() would be that of the sender. */
#define NO_LINK_HEADER 0x8000

static __always_inline u64 netns_of(struct __sk_buff *skb)
{
	u32 number = skb->tc_classid & (NO_LINK_HEADER - 1);
	u64 *netns = tc_netns.lookup(&number);

	return netns ? *netns : 0;
}

struct syn {
	struct tuple here; /* as the receiving socket sees it; netns is left 0 */
	u32 sequence_net;
	u32 at; /* bytes from the network header to the TCP header */
};

static __always_inline bool opens(u8 flags)
{
	return (flags & TCP_FIN_SYN_RST_ACK) == TCP_SYN;
}

/* What nearly every packet is, told without a helper (60 ns less). False: it takes a closer look.
 */
static __always_inline bool is_plainly_no_syn(struct __sk_buff *skb, u32 link_bytes)
{
	void *ip = (void *)(long)skb->data + link_bytes, *end = (void *)(long)skb->data_end;
	struct ip4_header *ip4 = ip;
	struct ip6_header *ip6 = ip;
	struct tcp_header *tcp;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		tcp = ip + sizeof(*ip4);
		if ((void *)(tcp + 1) > end || ip4->version_words != 0x45)
			return false;
		return ip4->protocol != IPPROTO_TCP || !opens(tcp->flags);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		tcp = ip + sizeof(*ip6);
		if ((void *)(tcp + 1) > end)
			return false;
		return ip6->next == IPPROTO_TCP && !opens(tcp->flags);
	}
	return true;
}

/* May there be a UDP header in it, behind whatever else? */
static __always_inline bool may_be_datagram(struct __sk_buff *skb, u32 link_bytes)
{
	void *ip = (void *)(long)skb->data + link_bytes, *end = (void *)(long)skb->data_end;
	struct ip4_header *ip4 = ip;
	struct ip6_header *ip6 = ip;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		return (void *)(ip4 + 1) > end || ip4->protocol == IPPROTO_UDP;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return (void *)(ip6 + 1) > end || ip6->next != IPPROTO_TCP;
	return false;
}

static __always_inline bool load(struct __sk_buff *skb, u32 at, void *to, u32 bytes)
{
	return !bpf_skb_load_bytes_relative(skb, at, to, bytes, BPF_HDR_START_NET);
}

/* Is there a header of this protocol in the packet, and where? A later fragment has none. */
static __always_inline bool find_header4(struct __sk_buff *skb, u8 protocol, struct tuple *here,
					 u32 *at)
{
	struct ip4_header ip;

	if (!load(skb, 0, &ip, sizeof(ip)) || ip.protocol != protocol ||
	    ip.fragment_net & bpf_htons(IP4_FRAGMENT_AT))
		return false;
	*at = (ip.version_words & 0xf) * 4;
	here->local.w[2] = here->remote.w[2] = bpf_htonl(0xffff);
	here->local.w[3] = ip.destination;
	here->remote.w[3] = ip.source;
	return *at >= sizeof(ip);
}

/* Skips one header of `kind`; what follows it, or a negative number where it can't be skipped. */
static __always_inline int skip_extension(struct __sk_buff *skb, u8 kind, u32 *at)
{
	struct ip6_extension header;

	if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_DSTOPTS &&
	    kind != IPPROTO_FRAGMENT)
		return -1;
	if (!load(skb, *at, &header, sizeof(header)))
		return -1;
	if (kind != IPPROTO_FRAGMENT)
		*at += header.words * 8;
	else if (header.fragment_net & bpf_htons(IP6_FRAGMENT_AT))
		return -1;
	*at += sizeof(header);
	return header.next;
}

static __always_inline bool find_header6(struct __sk_buff *skb, u8 protocol, struct tuple *here,
					 u32 *at)
{
	struct ip6_header ip;
	int next;

	if (!load(skb, 0, &ip, sizeof(ip)))
		return false;
	next = ip.next;
	*at = sizeof(ip);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < EXTENSIONS; i++) {
		KEEP(i);
		if (next == protocol || next < 0)
			break;
		next = skip_extension(skb, next, at);
	}
	here->local = ip.destination;
	here->remote = ip.source;
	return next == protocol;
}

static __always_inline bool find_header(struct __sk_buff *skb, u8 protocol, struct tuple *here,
					u32 *at)
{
	return skb->protocol == bpf_htons(ETH_P_IP) ? find_header4(skb, protocol, here, at)
						    : find_header6(skb, protocol, here, at);
}

/* False: not a SYN that opens a connection, or one that can't be read here. A header that is cut in
 * two by fragments, as no host does by itself, is taken for one: its flags come behind this gate.
 */
static __always_inline bool read_syn(struct __sk_buff *skb, struct syn *syn)
{
	struct tcp_header tcp = {};

	if (!find_header(skb, IPPROTO_TCP, &syn->here, &syn->at))
		return false;
	if (!load(skb, syn->at, &tcp, sizeof(tcp))) {
		if (!load(skb, syn->at, &tcp, TCP_START_BYTES))
			return false;
		tcp.flags = TCP_SYN;
	}
	if (!opens(tcp.flags))
		return false;
	syn->here.local_port = bpf_ntohs(tcp.destination_net);
	syn->here.remote_port = bpf_ntohs(tcp.source_net);
	syn->sequence_net = tcp.sequence_net;
	return true;
}

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

/* Of the pseudo header. The prefix of a mapped address, which an IPv4 one does not have, is 0xffff:
 * zero in one's complement. */
static __always_inline u16 pseudo_sum(struct tuple *here)
{
	u64 sum = bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(struct tcp_header));

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (u64)here->local.w[i] + here->remote.w[i];
	return fold(sum);
}

/*
 * The field must hold the sum of the pseudo header where the kernel is still to complete it
 * (CHECKSUM_PARTIAL: lo, veth), and the whole checksum where it is not, and a program can't tell
 * which. bpf_l4_csum_replace without BPF_F_PSEUDO_HDR leaves the field alone in the first case, and
 * in the second turns P, which is stored, into ~(~P + difference).
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

/* IP options and extension headers are cut out, not overwritten: the place of the TCP header is
 * where the kernel will complete the checksum. */
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

/* What it returns is what the program returns: the SYN is gone either way. */
static __always_inline int answer_with_reset(struct __sk_buff *skb, u32 link_bytes, struct syn *syn)
{
	return make_reset(skb, link_bytes, syn) ? bpf_redirect(skb->ifindex, 0) : TC_ACT_SHOT;
}
