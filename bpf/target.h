/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is connected to: a port bitmap answers most connections, one LPM lookup the rest. */

/* linux/in.h and linux/socket.h, which the stand-in for the kernel's headers leaves out */
#define AF_INET	      2
#define SOL_SOCKET    1
#define SO_REUSEPORT  15
#define IPPROTO_TCP   6
#define IPPROTO_UDP   17
#define IPPROTO_MPTCP 262

#define PASS   1 /* of a cgroup program: go on */
#define REFUSE 0 /* EPERM */

static __always_inline bool declared(u16 port)
{
	u32 index = port >> 6;
	u64 *word = ports.lookup(&index);

	return word && (*word >> (port & 63) & 1);
}

static __always_inline bool is_mapped(struct address *a)
{
	return !(a->w[0] | a->w[1]) && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline bool same(struct address *a, struct address *b)
{
	return !((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) |
		 (a->w[3] ^ b->w[3]));
}

/* The /24 or /64 that a remote peer is told by. */
static __always_inline void keep_network(struct address *a)
{
	if (is_mapped(a))
		a->w[3] &= bpf_htonl(0xffffff00);
	else
		a->w[2] = a->w[3] = 0;
}

/* Loopback, unspecified and link-local addresses mean something else in each network namespace. */
static __always_inline bool is_per_namespace(struct address *a)
{
	if (is_mapped(a))
		return !a->w[3] || (a->w[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000) ||
		       (a->w[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
	if (!(a->w[0] | a->w[1] | a->w[2]))
		return !a->w[3] || a->w[3] == bpf_htonl(1);
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* What is connected or bound to, from the kernel's own sockaddr: a program may read ctx->user_ip4
 * only where it is attached to connect4, ctx->user_ip6 only at connect6, and compiling all of this
 * once for each takes a second of every start. */
static __always_inline bool read_sockaddr(struct bpf_sock_addr *ctx, struct address *address)
{
	void *sockaddr = 0;

	READ(sockaddr, ctx, OFF_bpf_sock_addr_kern__uaddr);
	if (ctx->user_family == AF_INET) {
		address->w[0] = address->w[1] = 0;
		address->w[2] = bpf_htonl(0xffff);
		return !READ(address->w[3], sockaddr, OFF_sockaddr_in__sin_addr);
	}
	return !READ(*address, sockaddr, OFF_sockaddr_in6__sin6_addr);
}

static __always_inline u32 slot_in_force(void)
{
	u32 zero = 0;
	u64 *now = generation.lookup(&zero);

	return now ? *now & 1 : 0;
}

/* The target of a destination, or 0. */
static __always_inline u32 target_of(u32 slot, u16 protocol, u16 port, struct address *address,
				     u64 netns)
{
	struct target_key key = {
		.prefixlen = 8 * (sizeof(key) - sizeof(key.prefixlen)),
		.protocol = protocol,
		.port_net = bpf_htons(port),
		.netns = is_per_namespace(address) ? netns : 0,
		.address = *address,
	};
	u32 *target = find(targets.lookup(&slot), &key);

	return target ? *target : 0;
}

/* False: no row for the target, which can only mean that tables are inconsistent. */
static __always_inline bool open_tables(u32 slot, struct tables *tables)
{
	tables->rows = rows.lookup(&slot);
	tables->members = members.lookup(&slot);
	tables->sets = sets.lookup(&slot);
	return tables->rows && tables->members && tables->sets;
}

/* A blank row in flows; where there is no room, this CPU's spare one, which only lives while the
 * attempt is judged. It is a row of flows too: of another map, the verifier would follow everything
 * that comes after once for each. */
static __always_inline struct flow *new_flow(u64 cookie)
{
	u32 zero = 0;
	struct flow *flow, *blank = blank_flow.lookup(&zero);

	if (!blank)
		return 0;
	flows.update(&cookie, blank);
	flow = flows.lookup(&cookie);
	if (flow)
		return flow;
	lose(LOSS_FLOWS_FULL);
	cookie = SPARE_FLOW | bpf_get_smp_processor_id();
	flow = flows.lookup(&cookie);
	if (flow) {
		*flow = *blank;
		flow->state = FLOW_SPARE;
	}
	return flow;
}
