/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Bind gate: cgroup/bind4 and bind6, attached only while at least one target is enforced. Where a
 * service names its owners, a process that is not an owner gets EPERM for a declared port. bind()
 * to port 0 always passes: listen_observer.c judges the listener on the port that it gets.
 *
 * The hook runs before the kernel's own checks. A bind() that the kernel would reject is rejected
 * here with the kernel's own error. It is not counted as a violation, because the process could not
 * have taken the port that way.
 */

#define EACCES	   13
#define EINVAL	   22
#define EADDRINUSE 98

#define CAP_NET_BIND_SERVICE 10

/* True if the kernel accepts this address for this hook; otherwise it returns EAFNOSUPPORT after
 * the hook. */
static __always_inline bool is_taken(struct bpf_sock_addr *ctx, struct address *address)
{
	if (ctx->user_family == AF_UNSPEC && family_of_hook() == AF_INET)
		return !address->w[3]; /* the kernel takes it for 0.0.0.0 */
	return ctx->user_family == family_of_hook();
}

/* True if the port is privileged (below ip_unprivileged_port_start), the process lacks the
 * capability, and the network namespace is the host's. */
static __always_inline bool lacks_privilege(void *sk, u16 port)
{
	void *task = (void *)bpf_get_current_task(), *cred = 0, *user = 0, *net = 0;
	u32 level = 0, capabilities = ~0U;
	int first = 0;

	READ(net, sk, OFF_sock_common__skc_net);
	READ(first, net, OFF_net__ipv4 + OFF_netns_ipv4__sysctl_ip_prot_sock);
	if (port >= first || is_of_user(net))
		return false;
	READ(cred, task, OFF_task_struct__cred);
	READ(user, cred, OFF_cred__user_ns);
	READ(level, user, OFF_user_namespace__level);
	READ(capabilities, cred, OFF_cred__cap_effective);
	return level || !(capabilities >> CAP_NET_BIND_SERVICE & 1);
}

static __always_inline bool is_held(struct owner_key *key, void *sk)
{
	struct listener_owner *there = owners.lookup(key);

	return there && still_listens(there) &&
	       !(there->flags & LISTENER_SHARES && has_reuse_port(sk));
}

/* True if another socket listens there already and does not let this one share the place. */
static __always_inline bool is_in_use(void *sk, u64 netns, struct address *address, u16 port)
{
	struct owner_key key = {.netns = netns, .address = *address, .port = port};

	if (is_held(&key, sk))
		return true;
	key.address.w[0] = key.address.w[1] = key.address.w[3] = 0;
	key.address.w[2] = is_mapped(address) ? bpf_htonl(0xffff) : 0;
	return is_held(&key, sk);
}

/* The error that the kernel itself will return for this bind(), as far as that is certain; else
 * 0. */
static __always_inline int kernel_refuses(void *sk, u16 protocol, u64 netns,
					  struct address *address, u16 port)
{
	u16 bound = 0;

	if (lacks_privilege(sk, port))
		return EACCES;
	READ(bound, sk, OFF_sock_common__skc_num);
	if (bound)
		return EINVAL;
	/* owners has TCP listeners only: the same number of another protocol is another port */
	return protocol == IPPROTO_TCP && is_in_use(sk, netns, address, port) ? EADDRINUSE : 0;
}

/* Loaded twice: for bind4 and for bind6. */
int refuse_bind(struct bpf_sock_addr *ctx)
{
	u16 port = bpf_ntohs(ctx->user_port);
	u64 protocol = ctx->protocol == IPPROTO_MPTCP ? IPPROTO_TCP : ctx->protocol;
	struct settings *settings_now = get_settings();
	struct exe_name name = {};
	struct identity who = {};
	struct target_row *row, *owners;
	struct address address;
	struct tables tables;
	u32 slot, target, key;
	u64 policy, now;
	void *groups;
	int error;

	if (!port || !declared(port) || is_failsafe(port) || !settings_now ||
	    !has_gate(GATE_BIND) || !read_sockaddr(ctx, &address) || !is_taken(ctx, &address))
		return PASS;
	policy = policy_in_force();
	slot = policy & 1;
	who.netns = bpf_get_netns_cookie(ctx);
	target = target_of(slot, protocol, port, &address, who.netns);
	KEEP(target); /* else LLVM compares twice, and the verifier walks 40 % more */
	key = target | OWNERS_OF;
	if (!target || !open_tables(slot, &tables) || !(row = find(tables.rows, &target)) ||
	    !(owners = find(tables.rows, &key)))
		return PASS;
	now = bpf_ktime_get_boot_ns();
	if (!enforces(row, target, now))
		return PASS;
	if (exe_of_current(settings_now->seed, policy, now, &name))
		tell_name(name.path);
	groups = identify(&who, name.path);
	if (!is_no_owner(&tables, owners, target, bpf_get_current_pid_tgid(), &who, &name, groups,
			 now) ||
	    is_activator())
		return PASS;
	error = kernel_refuses(kernel_socket(ctx), protocol, who.netns, &address, port);
	if (error) {
		bpf_set_retval(-error);
		return REFUSE;
	}
	count_refused(target, GATE_BIND);
	tell_listener(EVENT_BIND, target, &who, bpf_get_socket_cookie(ctx), &address, protocol,
		      port, now);
	return REFUSE;
}
