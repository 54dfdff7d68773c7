/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Bind gate: cgroup/bind4 and bind6, attached only while something enforces. A declared port is
 * served by its owner; anybody else gets EPERM. Only where the service names its owners.
 */

/* True also where there is no room to find out. */
static __always_inline bool is_owner(struct tables *tables, struct target_row *owners,
				     struct identity *who, struct exe_name *name, u64 now)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct set *all = set_at(tables, SET_ALL), *clauses;
	struct verdict verdict = {};
	void *groups = identify(who, name->path);

	if (all)
		bind_clauses.update(&thread, all);
	clauses = bind_clauses.lookup(&thread);
	if (!clauses) {
		lose(LOSS_REFUSALS);
		return true;
	}
	local_set(tables, owners, who, name, groups, &verdict, clauses);
	decide(tables, owners, clauses, &verdict, now);
	bind_clauses.delete(&thread);
	return verdict.decision != DENIED;
}

/* Loaded twice, for bind4 and for bind6. */
int refuse_bind(struct bpf_sock_addr *ctx)
{
	u16 port = bpf_ntohs(ctx->user_port);
	u16 protocol = ctx->protocol == IPPROTO_MPTCP ? IPPROTO_TCP : ctx->protocol;
	struct settings *settings_now = get_settings();
	struct exe_name name = {};
	struct identity who = {};
	struct target_row *row, *owners;
	struct address address;
	struct tables tables;
	u32 slot, target, key;
	u64 now;

	if (!port || !declared(port) || is_failsafe(port) || !settings_now ||
	    !has_gate(GATE_BIND) || !read_sockaddr(ctx, &address))
		return PASS;
	slot = slot_in_force();
	who.netns = bpf_get_netns_cookie(ctx);
	target = target_of(slot, protocol, port, &address, who.netns);
	key = target | OWNERS_OF;
	if (!target || !open_tables(slot, &tables) || !(row = find(tables.rows, &target)) ||
	    !(owners = find(tables.rows, &key)))
		return PASS;
	now = bpf_ktime_get_boot_ns();
	if (!enforces(row, target, now))
		return PASS;
	if (exe_of_current(settings_now->seed, now, &name))
		tell_name(name.path);
	if (is_owner(&tables, owners, &who, &name, now))
		return PASS;
	count_refused(target, GATE_BIND);
	tell_listener(EVENT_BIND, &who, bpf_get_socket_cookie(ctx), &address, port, now);
	return REFUSE;
}
