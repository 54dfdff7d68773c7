/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Finds, by tuple, the attempt that a packet or an accepted connection belongs to.
 *
 * A user with a user namespace also has network namespaces, with any address of that user's choice.
 * An attempt made in such a namespace is "foreign". For rights, its tuple counts only in that
 * namespace, or where the tc gate saw the very socket's packet.
 *
 * For counting and naming, the initial sequence numbers must agree. A process that cannot see the
 * other end's SYN cannot know its number. A process that can forge one (TCP_REPAIR, CAP_NET_RAW)
 * gains no right by it.
 */

/* The tuple as the socket at the other end sees it: the key of tuples, which read_tuple() made at
 * connect(). */
static __always_inline void turn_round(struct tuple *here, struct tuple *there)
{
	there->netns = here->netns;
	there->local = here->remote;
	there->remote = here->local;
	there->local_port = here->remote_port;
	there->remote_port = here->local_port;
}

/* What connect() noted about the attempt that this packet belongs to: the cookie of its flow, a
 * mark if it has no flow (any more), or 0. */
static __always_inline u64 cookie_of_tuple(struct tuple *here)
{
	struct tuple there = {};
	u64 *cookie;

	turn_round(here, &there);
	cookie = tuples.lookup(&there);
	if (!cookie)
		cookie = late_tuples.lookup(&there);
	return cookie ? *cookie : 0;
}

/* True if the SYN of the attempt went to this place. */
static __always_inline bool leads_to(struct flow *flow, struct tuple *here)
{
	return same(&flow->remote, &here->local) && flow->remote_port == here->local_port;
}

/* A further subflow shares the flow of the first one. It may go to another address of the server.
 * It may also go to another port, which can be another service's, so the target is compared. */
static __always_inline bool is_judged_for(struct flow *flow, struct tuple *here, u32 target)
{
	return leads_to(flow, here) || flow->verdict.target == target;
}

/* True if `cookie` is this mark, ROWLESS or CLOSED, and the attempt was not made in a user's own
 * namespace. */
static __always_inline bool is_mark(u64 cookie, u64 mark)
{
	return (cookie & (ROWLESS | FOREIGN)) == mark;
}

/* True if a user owns this network namespace. `net` is the kernel's struct net. */
static __always_inline bool is_of_user(void *net)
{
	void *user = 0;

	READ(user, net, OFF_net__user_ns);
	return is_below_first(user);
}

/* True if a user owns the network namespace of this socket. `netns` is the cookie of that
 * namespace. */
static __always_inline bool is_made_by_user(void *sk, u64 netns)
{
	struct settings *now = get_settings();
	void *net = 0;

	if (now && netns == now->host_netns)
		return false;
	READ(net, sk, OFF_sock_common__skc_net);
	return is_of_user(net);
}

/* Stores a mark for the passive side of a socket without a flow. A foreign mark replaces only
 * foreign marks. */
static __always_inline void note_late(struct tuple *tuple, u64 mark, bool foreign, u32 sequence)
{
	u64 value = mark | (foreign ? FOREIGN : 0) | sequence, *there;

	if (foreign) {
		there = late_tuples.lookup(tuple);
		if (there && (!(*there & ROWLESS) || !(*there & FOREIGN)))
			return;
	}
	if (late_tuples.update(tuple, &value))
		lose(LOSS_TUPLES);
}
