/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Whether a packet or connection is delivered on this host, whatever its address is. Used only
 * where the table of addresses has no answer: for a local route that it lacks, or an address that
 * user space has not reported yet.
 */

/* From net/inet_sock.h. Before Linux 6.6 it is a bit-field, whose position the loader finds. */
#define INET_FLAGS_TRANSPARENT 15

/* From linux/rtnetlink.h and linux/ipv6_route.h. */
#define RTN_LOCAL 2
#define RTF_LOCAL 0x80000000

/* The target of what is delivered in this network namespace, or 0. User space makes these entries
 * for the namespaces that services live in. Their address, all ones, is never looked up with a
 * namespace. */
static __always_inline u32 target_delivered(u32 slot, u16 protocol, u16 port, u64 netns)
{
	struct port_numbers *numbers = numbers_in(slot);
	struct target_key key = {
		.prefixlen = 8 * (sizeof(key) - sizeof(key.prefixlen)),
		.protocol = protocol,
		.ports = numbers ? number_of(numbers, port) : 0,
		.netns = netns,
		.address = {{~0U, ~0U, ~0U, ~0U}},
	};
	u32 *target = find(targets.lookup(&slot), &key);

	return target ? *target : 0;
}

/* True if this address is on other hosts although its route is local, such as a ClusterIP on
 * kube-ipvs0. Such entries have protocol 0 and port number 0, which stand for any. */
static __always_inline bool is_elsewhere(u32 slot, struct address *address, u64 netns)
{
	struct target_key key = {
		.prefixlen = 8 * (sizeof(key) - sizeof(key.prefixlen)),
		.netns = netns,
		.address = *address,
	};

	return find(targets.lookup(&slot), &key) != 0;
}

/* True if a connection that is being made has a local route. The route's own family counts, because
 * an IPv6 socket may connect to an IPv4 address. `sk` is the kernel's struct sock. */
static __always_inline bool has_local_route(void *sk)
{
	void *route = 0, *ops = 0;
	u16 family = 0, type = 0;
	u32 flags = 0;

	READ(route, sk, OFF_sock__sk_dst_cache);
	READ(ops, route, OFF_dst_entry__ops);
	READ(family, ops, OFF_dst_ops__family);
	if (family == AF_INET) {
		READ(type, route, OFF_rtable__rt_type);
		return type == RTN_LOCAL;
	}
	READ(flags, route, OFF_rt6_info__rt6i_flags);
	return flags & RTF_LOCAL;
}

/* True if this socket accepts foreign addresses (TPROXY). `sk` is the kernel's struct sock. */
static __always_inline bool is_transparent(void *sk)
{
#ifdef OFF_inet_sock__inet_flags
	u64 flags = 0;

	READ(flags, sk, OFF_inet_sock__inet_flags);
	return flags >> INET_FLAGS_TRANSPARENT & 1;
#else
	u8 flags = 0;

	READ(flags, sk, OFF_inet_sock__transparent);
	return flags >> BIT_inet_sock__transparent & 1;
#endif
}
