/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A packet at a tc filter: its ingress interface, its ends, whether it is a TCP SYN. Offsets of
 * reads count from the network header, so they need not know whether there is a link-layer header.
 */

/* From linux/if_ether.h, linux/in.h, linux/in6.h and linux/pkt_cls.h. */
#define ETH_P_IP	    0x0800
#define ETH_P_IPV6	    0x86DD
#define ETHERNET_BYTES	    14
#define MAC_BYTES	    6
#define IPPROTO_HOPOPTS	    0
#define IPPROTO_ROUTING	    43
#define IPPROTO_FRAGMENT    44
#define IPPROTO_DSTOPTS	    60
#define TC_ACT_UNSPEC	    (-1) /* let the filters after this one decide */
#define TC_ACT_SHOT	    2
#define TCP_SYN		    0x02
#define TCP_RST_ACK	    0x14
#define TCP_FIN_SYN_RST_ACK 0x17
#define IP4_DONT_FRAGMENT   0x4000
#define IP4_FRAGMENT_AT	    0x1fff
#define IP6_FRAGMENT_AT	    0xfff8
#define IP6_VERSION	    0x60000000
#define ANSWER_HOPS	    64
#define TCP_START_BYTES	    8 /* ports and sequence number: a fragment has at least these */
#define EXTENSIONS	    8 /* how many extension headers of an IPv6 packet are walked */

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

/* A fragment header has this size. For other headers, `words` gives the rest of the length. */
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

/* Facts about the interface of our filter, in the minor of its classid (a program does not see the
 * major): whether packets lack a link-layer header, and the index in tc_netns of its namespace.
 * bpf_get_netns_cookie() would return the sender's namespace. */
#define NO_LINK_HEADER 0x8000

static __always_inline u64 netns_of(struct __sk_buff *skb)
{
	u32 number = skb->tc_classid & (NO_LINK_HEADER - 1);
	u64 *netns = tc_netns.lookup(&number);

	return netns ? *netns : 0;
}

struct syn {
	struct tuple here; /* as the receiving socket sees it; netns stays 0 */
	u32 sequence_net;
	u32 at; /* bytes from the network header to the TCP header */
};

static __always_inline bool opens(u8 flags)
{
	return (flags & TCP_FIN_SYN_RST_ACK) == TCP_SYN;
}

/* A quick test without a helper, which saves 60 ns for nearly every packet. False: the packet needs
 * the full test. */
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

/* True if the packet may have a UDP header, behind any other headers. */
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

/* True if the packet has a header of this protocol; finds its place. A fragment after the first has
 * none. */
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

/* Skips one header of `kind`. Returns the kind of the next one, or a negative number if it cannot
 * be skipped. */
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

/* False: not a SYN that opens a connection, or it cannot be read here. A TCP header cut in two by
 * fragments, which no ordinary host sends, counts as a SYN: this gate does not see its flags. */
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
