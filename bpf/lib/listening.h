/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Notes which processes listen on declared ports. Any user can fill the map owners by listening at
 * 16,384 loopback addresses. So two more maps hold the rows that verdicts depend on:
 * more_strangers, which such users can fill, and more_owners, for owners and transparent listeners,
 * which they cannot.
 */

/* A listener that shares its place with one of these is not a stranger. */
#define RIGHTFUL (LISTENER_OWNER | LISTENER_ACTIVATED | LISTENER_BESIDE)

/* True if another socket can listen at the same place, or the kernel cannot tell (before 6.1). */
static __always_inline bool shares_place(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	int reuse_port = 0;

	return sk->bound_dev_if ||
	       bpf_getsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &reuse_port, sizeof(reuse_port)) ||
	       reuse_port;
}

/* True for a network namespace of a user's own in which no service is. That user can listen at more
 * places than the map has room for. */
static __always_inline bool is_nobodys_place(void *sk, u64 netns, u16 port)
{
	struct address any = {};

	return is_made_by_user(sk, netns) &&
	       !target_of(slot_in_force(), IPPROTO_TCP, port, &any, netns);
}

/* The target that is served where this socket listens, also at an address that this host does not
 * have yet. */
static __always_inline u32 target_of_listener(u32 slot, struct owner_key *place)
{
	u32 target = target_of(slot, IPPROTO_TCP, place->port, &place->address, place->netns);
	struct address any;

	if (target)
		return target;
	any = any_of_family(&place->address);
	return target_of(slot, IPPROTO_TCP, place->port, &any, place->netns);
}

/* The target that is served there if it names its owners, else 0. */
static __always_inline u32 owned_target(u32 slot, struct owner_key *place)
{
	u32 target = target_of_listener(slot, place), key = target | OWNERS_OF;

	return target && find(rows.lookup(&slot), &key) ? target : 0;
}

/* Notes that a listener which may be a stranger found no room in any map. */
static __always_inline void note_crowded(u32 target, u64 now_ns)
{
	u64 *since = crowded.lookup(&target);

	if (since)
		*since = now_ns;
}

/* Stores a listener for which owners has no room. Only two kinds matter to a verdict: listeners of
 * a target that names its owners, and transparent ones, which accept foreign addresses. Outside
 * users' namespaces only root can make a transparent one. */
static __always_inline void note_elsewhere(struct owner_key *place, struct listener_owner *row)
{
	u32 target = owned_target(slot_in_force(), place);
	bool is_roots = row->flags & LISTENER_TRANSPARENT &&
			!is_made_by_user((void *)row->socket, place->netns);

	lose(LOSS_STORAGE);
	if ((target || is_roots) && more_owners.update(place, row) && target)
		note_crowded(target, row->since_ns);
}

/* Where this socket listens. False: this listener is not noted. Ports that no service declares must
 * not cost their connections a name. If a port is declared later, user space adds its owner. */
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

/* True if another rightful listener shares this place, so that the two cannot be told apart. A
 * listener that is not judged yet does not count: two strangers that listen at once do not make
 * each other rightful. */
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
	/* the place does not identify the listener of a connection, so the socket stores it */
	stored = socket_owners.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (stored)
		*stored = *owner;
	else
		lose(LOSS_STORAGE);
}

/* True if this row stays when the listener closes: it belongs to another listener, or another one
 * shares the place and takes over the row. */
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
	row->flags &= ~LISTENER_OWNER; /* the remaining listener may be a stranger's */
	return true;
}

/* Deletes the rows of a listener that closes and had asked for its close callback. It asked because
 * its row takes room that others need, or because consumers of the place now reach another
 * listener. User space deletes all other rows: accepted sockets inherit the callback flag, and
 * every connection would pay for it. */
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
