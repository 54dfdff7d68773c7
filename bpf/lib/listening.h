/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What is noted of who listens on a declared port. Anybody can fill owners, by listening at 16,384
 * loopback addresses. So what a verdict rests on has room beside it: that of strangers, which they
 * can fill, and that of owners and transparent listeners, which they can't.
 */

/* Listeners beside which nobody is a stranger. */
#define RIGHTFUL (LISTENER_OWNER | LISTENER_ACTIVATED | LISTENER_BESIDE)

/* Can another socket listen at the same place? Where the kernel can't say (before 6.1): yes. */
static __always_inline bool shares_place(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	int reuse_port = 0;

	return sk->bound_dev_if ||
	       bpf_getsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &reuse_port, sizeof(reuse_port)) ||
	       reuse_port;
}

/* In a network namespace of a user's own, where nothing is served? He can listen at more places
 * than there is room for. */
static __always_inline bool is_nobodys_place(void *sk, u64 netns, u16 port)
{
	struct address any = {};

	return is_made_by_user(sk, netns) &&
	       !target_of(slot_in_force(), IPPROTO_TCP, port, &any, netns);
}

/* What is served where this socket listens: also at an address that this host does not have yet. */
static __always_inline u32 target_of_listener(u32 slot, struct owner_key *place)
{
	u32 target = target_of(slot, IPPROTO_TCP, place->port, &place->address, place->netns);
	struct address any;

	if (target)
		return target;
	any = any_of_family(&place->address);
	return target_of(slot, IPPROTO_TCP, place->port, &any, place->netns);
}

/* The target that is served there, if it names its owners, or 0. */
static __always_inline u32 owned_target(u32 slot, struct owner_key *place)
{
	u32 target = target_of_listener(slot, place), key = target | OWNERS_OF;

	return target && find(rows.lookup(&slot), &key) ? target : 0;
}

/* There is no room for one who may be a stranger. */
static __always_inline void note_crowded(u32 target, u64 now_ns)
{
	u64 *since = crowded.lookup(&target);

	if (since)
		*since = now_ns;
}

/* There is no room in owners. What listens where nobody is an owner, and takes what is addressed
 * here, concerns no verdict. Only root makes a transparent listener outside namespaces of users. */
static __always_inline void note_elsewhere(struct owner_key *place, struct listener_owner *row)
{
	u32 target = owned_target(slot_in_force(), place);
	bool is_roots = row->flags & LISTENER_TRANSPARENT &&
			!is_made_by_user((void *)row->socket, place->netns);

	lose(LOSS_STORAGE);
	if ((target || is_roots) && more_owners.update(place, row) && target)
		note_crowded(target, row->since_ns);
}

/* Where this socket listens. False: nothing is noted of it. Others' connections shall not pay for a
 * name; a port that is declared later gets its owner from user space. */
static __always_inline bool read_place(struct bpf_sock_ops *ctx, struct owner_key *place)
{
	struct tuple here = {};

	read_tuple(ctx, &here);
	place->netns = bpf_get_netns_cookie(ctx);
	place->address = here.local;
	place->port = here.local_port;
	return declared(place->port) &&
	       !is_nobodys_place(kernel_socket_of(ctx), place->netns, place->port);
}

/* Does somebody listen there whom this one can't be told apart from? Before he is judged it is not
 * known: two strangers who listen at once speak for nobody. */
static __always_inline bool is_rightful(struct listener_owner *row, u64 cookie)
{
	return row && row->flags & RIGHTFUL && row->cookie != cookie && still_listens(row);
}

static __always_inline void note_listener(struct bpf_sock_ops *ctx, struct owner_key *place,
					  struct identity *owner, u64 now)
{
	void *socket = kernel_socket_of(ctx);
	struct listener_owner row = {
		.since_ns = now,
		.cookie = bpf_get_socket_cookie(ctx),
		.socket = (u64)socket,
		.process = *owner,
	};
	struct bpf_sock *sk = ctx->sk;
	struct identity *stored;
	bool shares;

	if (!sk)
		return;
	shares = shares_place(ctx, sk);
	if (is_transparent(socket))
		row.flags |= LISTENER_TRANSPARENT;
	if (is_v6only(socket))
		row.flags |= LISTENER_V6ONLY;
	if (is_activator())
		row.flags |= LISTENER_ACTIVATED;
	if (shares)
		row.flags |= LISTENER_SHARES;
	if (shares && (is_rightful(owners.lookup(place), row.cookie) ||
		       is_rightful(more_owners.lookup(place), row.cookie)))
		row.flags |= LISTENER_BESIDE;
	if (owners.update(place, &row)) {
		note_elsewhere(place, &row);
		want_close(ctx);
	} else if (!shares) {
		return;
	}
	/* the place does not tell whose a connection is: its socket does */
	stored = socket_owners.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (stored)
		*stored = *owner;
	else
		lose(LOSS_STORAGE);
}

/* Is this row another listener's? Of several that share the place, it becomes that of one that is
 * left. */
static __always_inline bool outlives(struct listener_owner *row, struct bpf_sock_ops *ctx)
{
	u64 left;

	if (!row || row->cookie != bpf_get_socket_cookie(ctx))
		return true;
	left = other_of_group(kernel_socket_of(ctx));
	if (!left)
		return false;
	row->cookie = cookie_of(left);
	row->socket = left;
	row->flags &= ~LISTENER_OWNER; /* that one may be a stranger's */
	return true;
}

/* A listener is closed that asked for it, because its row takes room that others need, or its
 * consumers are somebody else's now. All others' rows are taken back by user space: sockets that
 * are accepted from a listener inherit what it asks for, and a connection would pay for it. */
static __always_inline void forget_listener(struct bpf_sock_ops *ctx)
{
	struct owner_key place = {};

	if (!read_place(ctx, &place))
		return;
	if (!outlives(owners.lookup(&place), ctx))
		owners.delete(&place);
	if (!outlives(more_strangers.lookup(&place), ctx))
		more_strangers.delete(&place);
	if (!outlives(more_owners.lookup(&place), ctx))
		more_owners.delete(&place);
}
