/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Finding the attempt that a packet, or an accepted connection, belongs to, by its tuple.
 *
 * Whoever has a user namespace of his own has network namespaces, too, and there any address he
 * likes. What was made in such a one is foreign. For a right, its tuple counts in that namespace
 * only, or where the tc gate has seen the very socket's packet. For counting and naming, the
 * initial sequence numbers must agree: who can't see the other end's SYN can't have its number, and
 * who can forge one (TCP_REPAIR, CAP_NET_RAW) gains no right by it.
 */

/* As the socket at the other end has it: the key of tuples, which read_tuple() made at connect().
 */
static __always_inline void turn_round(struct tuple *here, struct tuple *there)
{
	there->netns = here->netns;
	there->local = here->remote;
	there->remote = here->local;
	there->local_port = here->remote_port;
	there->remote_port = here->local_port;
}

/* What was noted at connect() of the attempt whose packet this is: the cookie of its flow; a mark,
 * if it has none (any more); or 0. */
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

/* Is this where the attempt's SYN went to? */
static __always_inline bool leads_to(struct flow *flow, struct tuple *here)
{
	return same(&flow->remote, &here->local) && flow->remote_port == here->local_port;
}

/* A further subflow, which has the flow of the first, may go to another address of the server, and
 * to another port, which is another service's. */
static __always_inline bool is_judged_for(struct flow *flow, struct tuple *here, u32 target)
{
	return leads_to(flow, here) || flow->verdict.target == target;
}

/* ROWLESS and CLOSED, of what was not made in a user's own namespace. */
static __always_inline bool is_mark(u64 cookie, u64 mark)
{
	return (cookie & (ROWLESS | FOREIGN)) == mark;
}

/* Is this network namespace a user's own? `net` is the kernel's struct net. */
static __always_inline bool is_of_user(void *net)
{
	void *user = 0;

	READ(user, net, OFF_net__user_ns);
	return is_below_first(user);
}

/* The same of a socket's, whose cookie is `netns`. */
static __always_inline bool is_made_by_user(void *sk, u64 netns)
{
	struct settings *now = get_settings();
	void *net = 0;

	if (now && netns == now->host_netns)
		return false;
	READ(net, sk, OFF_sock_common__skc_net);
	return is_of_user(net);
}

/* What is noted for the passive side of a socket without a flow. What is foreign takes nobody
 * else's place. */
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
