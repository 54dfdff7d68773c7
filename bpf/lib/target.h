/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Finds the target of a destination. A bitmap of ports answers for most connections; the number of
 * the port and one LPM lookup answer for the rest. */

/* From linux/in.h and linux/socket.h, which the replacement for the kernel's headers leaves out. */
#define AF_UNSPEC     0
#define AF_INET	      2
#define AF_INET6      10
#define SOL_SOCKET    1
#define SO_REUSEPORT  15
#define IPPROTO_TCP   6
#define IPPROTO_UDP   17
#define IPPROTO_MPTCP 262

#define PASS   1 /* return value of a cgroup program: allow */
#define REFUSE 0 /* return value of a cgroup program: EPERM */

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

/* The unspecified address of the same family as `like`. */
static __always_inline struct address any_of_family(struct address *like)
{
	struct address any = {};

	any.w[2] = is_mapped(like) ? bpf_htonl(0xffff) : 0;
	return any;
}

/* Reduces a remote peer's address to its /24 or /64, which events and counters use. */
static __always_inline void keep_network(struct address *a)
{
	if (is_mapped(a))
		a->w[3] &= bpf_htonl(0xffffff00);
	else
		a->w[2] = a->w[3] = 0;
}

/* True for loopback, unspecified and IPv6 link-local addresses, which mean something else in each
 * network namespace. IPv4 link-local ones do not: hosts forward to 169.254.169.254 for their
 * containers. */
static __always_inline bool is_per_namespace(struct address *a)
{
	if (is_mapped(a))
		return !a->w[3] || (a->w[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	if (!(a->w[0] | a->w[1] | a->w[2]))
		return !a->w[3] || a->w[3] == bpf_htonl(1);
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* The hook that this program is loaded for, one of enum bpf_attach_type. The verifier knows the
 * value; the compiler does not. So code that is compiled once is loaded for both families, each
 * without the other's code. */
#define ATTACH_TYPE ((u32)bpf_pseudo_fd(0, ATTACH_TYPE_MARK))

/* The family of the address at this hook. The socket's family does not tell, because connect4 also
 * runs for an IPv6 UDP socket. The address's own family does not either, because the kernel has not
 * checked it yet. */
static __always_inline u16 family_of_hook(void)
{
	u32 type = ATTACH_TYPE;

	return type == BPF_CGROUP_INET4_CONNECT || type == BPF_CGROUP_INET4_BIND ||
			       type == BPF_CGROUP_UDP4_SENDMSG || type == BPF_CGROUP_UDP4_RECVMSG
		       ? AF_INET
		       : AF_INET6;
}

/* Reads the address of connect() or bind() from the kernel's own sockaddr. False: it cannot be
 * read. */
static __always_inline bool read_sockaddr(struct bpf_sock_addr *ctx, struct address *address)
{
	void *sockaddr = 0;

	READ(sockaddr, ctx, OFF_bpf_sock_addr_kern__uaddr);
	if (family_of_hook() == AF_INET) {
		address->w[0] = address->w[1] = 0;
		address->w[2] = bpf_htonl(0xffff);
		return !READ(address->w[3], sockaddr, OFF_sockaddr_in__sin_addr);
	}
	return !READ(*address, sockaddr, OFF_sockaddr_in6__sin6_addr);
}

static __always_inline void *kernel_socket(struct bpf_sock_addr *ctx)
{
	void *sk = 0;

	READ(sk, ctx, OFF_bpf_sock_addr_kern__sk);
	return sk;
}

static __always_inline u16 port_of(void *sk)
{
	u16 port = 0;

	READ(port, sk, OFF_sock_common__skc_num);
	return port;
}

/* The generation of the policy in force; its tables are in slot & 1. */
static __always_inline u64 policy_in_force(void)
{
	u32 zero = 0;
	u64 *now = generation.lookup(&zero);

	return now ? *now : 0;
}

static __always_inline u32 slot_in_force(void)
{
	return policy_in_force() & 1;
}

/* The numbers of ports in the keys of this slot's targets, or 0. */
static __always_inline struct port_numbers *numbers_in(u32 slot)
{
	u32 zero = 0;

	return find(port_numbers.lookup(&slot), &zero);
}

static __always_inline u16 number_of(struct port_numbers *numbers, u16 port)
{
	u64 index = port;

	KEEP(index); /* else LLVM drops the bound, which the verifier needs to see */
	return numbers->of[index & (PORTS - 1)];
}

/* The target of a destination, or 0. */
static __always_inline u32 target_of(u32 slot, u16 protocol, u16 port, struct address *address,
				     u64 netns)
{
	struct port_numbers *numbers = numbers_in(slot);
	struct target_key key = {
		.prefixlen = 8 * (sizeof(key) - sizeof(key.prefixlen)),
		.protocol = protocol,
	};
	u32 *target;

	if (!numbers)
		return 0;
	key.ports = number_of(numbers, port);
	key.netns = is_per_namespace(address) ? netns : 0;
	key.address = *address;
	target = find(targets.lookup(&slot), &key);
	return target ? *target : 0;
}

/* False: a table is missing, which happens only if the tables are inconsistent. */
static __always_inline bool open_tables(u32 slot, struct tables *tables)
{
	tables->slot = slot;
	tables->rows = rows.lookup(&slot);
	tables->members = members.lookup(&slot);
	tables->sets = sets.lookup(&slot);
	return tables->rows && tables->members && tables->sets;
}

/* A blank row in flows. If flows is full, this CPU's spare row, which lives only while the attempt
 * is judged. The spare row is also in flows: if it were in another map, the verifier would walk all
 * later code once for each map. */
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
	} else {
		lose(LOSS_COUNTS_FULL);
	}
	return flow;
}
