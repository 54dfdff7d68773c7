/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup/skb egress: each datagram that a socket of this host sends, when both its ends are known.
 * Notes the sender by tuple, so that two kinds are recognised when they arrive: datagrams of a
 * judged sender, and answers to a socket that sent from a declared port. Always allows.
 */

#define REFRESH_NS 1000000000ULL /* how old the time in a row may become */

static __always_inline bool same_ends(struct tuple *one, struct tuple *other)
{
	return same(&one->local, &other->local) && same(&one->remote, &other->remote) &&
	       one->local_port == other->local_port && one->remote_port == other->remote_port;
}

/* True if sents still has the row, and the row is this socket's. Other rows may have evicted it. */
static __always_inline bool is_still_noted(struct last_sent *last)
{
	struct sent *known = sents.lookup(&last->tuple);

	return known && known->cookie == last->cookie && known->decision == ALLOWED;
}

/* True if this socket sent to the same tuple a moment ago, and that was let pass. Uses the coarse
 * clock, which costs a third of the exact one. */
static __always_inline bool is_as_before(struct bpf_sock *sk, struct tuple *tuple)
{
	struct last_sent *last = sk ? last_sents.sk_storage_get(sk, 0, 0) : 0;

	return last && is_within(last->time_ns, bpf_ktime_get_coarse_ns(), LAST_NS) &&
	       last->generation == policy_in_force() && same_ends(&last->tuple, tuple) &&
	       (!last->cookie || is_still_noted(last));
}

/* If there is no room, the next datagram is processed in full as well. */
static __always_inline void note_last(struct bpf_sock *sk, struct tuple *tuple, u64 cookie)
{
	struct last_sent *last =
		sk ? last_sents.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (!last)
		return;
	last->time_ns = bpf_ktime_get_coarse_ns();
	last->generation = policy_in_force();
	last->tuple = *tuple;
	last->cookie = cookie;
}

static __always_inline u64 netns_of_socket(void *sk)
{
	void *net = 0;
	u64 netns = 0;

	READ(net, sk, OFF_sock_common__skc_net);
	READ(netns, net, OFF_net__net_cookie);
	return netns;
}

/* True if the datagram was sent to this address, or to "any", which the kernel replaced by it. */
static __always_inline bool is_destination(struct address *said, struct tuple *tuple)
{
	struct address any = any_of_family(&tuple->remote);

	return same(said, &tuple->remote) || same(said, &any);
}

/* Fills `now` with the verdict on a connected socket. False: it is not connected, or now sends
 * elsewhere. */
static __always_inline bool was_connected(struct bpf_sock *sk, struct tuple *tuple,
					  struct sent *now)
{
	struct connected *kept = sk ? connected.sk_storage_get(sk, 0, 0) : 0;

	if (!kept || kept->port != tuple->remote_port || !is_destination(&kept->remote, tuple))
		return false;
	now->target = kept->target;
	/* a new policy may license a consumer that was denied: like an established connection, it
	 * goes on */
	now->decision = kept->generation == policy_in_force() ? kept->decision : ALLOWED;
	return true;
}

/* Fills `now` with the verdict stored in the socket for its last datagram. Needed because other
 * sockets can evict rows of senders. */
static __always_inline bool was_last_judged(struct bpf_sock *sk, struct tuple *tuple,
					    struct sent *now)
{
	struct last_judged *last = sk ? last_judgeds.sk_storage_get(sk, 0, 0) : 0;

	if (!last || last->port != tuple->remote_port || !is_destination(&last->remote, tuple) ||
	    !is_within(last->time_ns, bpf_ktime_get_coarse_ns(), LAST_NS))
		return false;
	now->target = last->said.target;
	now->decision = last->said.decision;
	return true;
}

/* Fills `now` with the verdict on a socket that sends to an address. */
static __always_inline bool was_judged(struct tuple *tuple, struct sent *now)
{
	struct sender_key key = {
		.cookie = now->cookie,
		.remote = tuple->remote,
		.port = tuple->remote_port,
	};
	struct sender *sender = senders.lookup(&key);

	if (!sender) {
		key.remote = any_of_family(&tuple->remote);
		sender = senders.lookup(&key);
	}
	if (!sender)
		return false;
	now->target = sender->target;
	now->decision = sender->decision;
	return true;
}

/* Counts a loss for a datagram whose destination no hook has judged. While another thread connects
 * a socket anew, send() may take the address of one place and the port of the other, which no hook
 * has seen together. If the destination is on this host, the datagram is judged by its address when
 * it arrives. If it is elsewhere, no program would judge it, so it is counted here. */
static __always_inline void tell_unseen(struct bpf_sock *sk, struct tuple *tuple, struct sent *now)
{
	struct connected *kept = sk ? connected.sk_storage_get(sk, 0, 0) : 0;
	u32 slot = slot_in_force(), target;
	struct target_row *row;

	if (!kept || kept->generation != policy_in_force())
		return;
	target = target_of(slot, IPPROTO_UDP, tuple->remote_port, &tuple->remote, now->netns);
	row = target ? find(rows.lookup(&slot), &target) : 0;
	if (row && !is_home(slot, tuple->remote_port, target, row->home_netns) &&
	    !answers(tuple->local_port, &tuple->remote, tuple->remote_port, slot, target,
		     now->netns, now->time_ns))
		lose(LOSS_REFUSALS);
}

/* True if this answers a datagram that was let in. */
static __always_inline bool is_answer(struct tuple *tuple, u64 netns, u64 now)
{
	struct peer_key key = {.address = tuple->remote};
	u32 slot = slot_in_force();
	struct tuple there = {};
	struct sent *sent;
	struct peer *peer;

	turn_round(tuple, &there);
	sent = sents.lookup(&there);
	if (sent && speaks(sent, netns, now))
		return true;
	key.target = target_of_datagram(slot, tuple->local_port, &tuple->local, netns);
	peer = peers.lookup(&key);
	return peer && is_within(peer->seen_ns, now, ATTEMPT_NS) &&
	       !is_refused(slot, key.target, peer->decision, GATE_SOCKET, tuple->local_port, now);
}

/* A row from a user's own network namespace replaces no other row. */
static __always_inline void note_sent(struct tuple *tuple, struct sent *now)
{
	struct sent *known = sents.lookup(tuple);

	if (known && now->foreign && known->netns != now->netns)
		return;
	if (known) {
		now->refused = known->refused && known->target == now->target;
		*known = *now;
	} else if (now->foreign ? sents.insert(tuple, now) : sents.update(tuple, now)) {
		lose(LOSS_TUPLES);
	} else {
		count_made(ROWS_SENTS);
	}
}

/* True if a reply to the source address would reach this socket. A socket bound to another address
 * can send from this one (IP_PKTINFO), and another process may listen there. */
static __always_inline bool receives_at(void *sk, struct tuple *tuple)
{
	struct address bound = {};

	if (is_mapped(&tuple->local)) {
		READ(bound.w[3], sk, OFF_sock_common__skc_rcv_saddr);
		return !bound.w[3] || bound.w[3] == tuple->local.w[3];
	}
	READ(bound, sk, OFF_sock_common__skc_v6_rcv_saddr);
	return !(bound.w[0] | bound.w[1] | bound.w[2] | bound.w[3]) || same(&bound, &tuple->local);
}

/* True if a socket of this host sends with the source address of another host. Detected for raw
 * sockets, and for sockets that a reply would not reach. Also detected for IPv6 to IPv6 within a
 * namespace that services live in, because the table has all addresses of such a namespace. */
static __always_inline bool is_misplaced_datagram(struct tuple *tuple, struct sent *now, void *sk,
						  bool from)
{
	u32 slot = slot_in_force();
	u16 protocol = 0;

	READ(protocol, sk, OFF_sock__sk_protocol);
	if (protocol != IPPROTO_UDP || (from && !receives_at(sk, tuple)))
		return true;
	return now->target && !is_mapped(&tuple->local) &&
	       is_home(slot, tuple->remote_port, now->target, now->netns) &&
	       target_of(slot, IPPROTO_UDP, tuple->remote_port, &tuple->local, now->netns) !=
		       now->target;
}

/* Notes what a socket sends to or from a declared port. */
static __always_inline void note_of_socket(struct __sk_buff *skb, struct bpf_sock *full,
					   struct tuple *tuple, bool from, bool to)
{
	u64 now_ns = bpf_ktime_get_boot_ns();
	struct sent now = {.time_ns = now_ns}, *known;
	void *sk = 0;

	READ(sk, skb, OFF_sk_buff__sk);
	now.cookie = bpf_get_socket_cookie(skb);
	now.netns = netns_of_socket(sk);
	if (differs_by_netns(tuple))
		tuple->netns = now.netns;
	if (to && !was_connected(full, tuple, &now) && !was_last_judged(full, tuple, &now) &&
	    !was_judged(tuple, &now))
		tell_unseen(full, tuple, &now);
	if (!now.target && !from)
		return;
	if (!now.target && is_answer(tuple, now.netns, now_ns)) {
		note_last(full, tuple, 0);
		return;
	}
	if (now.decision == ALLOWED) /* a denied datagram is processed each time */
		note_last(full, tuple, now.cookie);
	known = sents.lookup(tuple);
	if (known && known->cookie == now.cookie && known->target == now.target &&
	    known->decision == now.decision && is_within(known->time_ns, now_ns, REFRESH_NS))
		return;
	now.foreign = is_made_by_user(sk, now.netns);
	if (is_misplaced_datagram(tuple, &now, sk,
				  from)) { /* such a row gives no right in any namespace */
		now.foreign = true;
		now.netns = 0;
	}
	note_sent(tuple, &now);
	if (!from)
		return;
	/* for answers(), which does not know the source address */
	__builtin_memset(&tuple->remote, 0, sizeof(tuple->remote));
	tuple->netns = is_per_namespace(&tuple->local) ? netns_of_socket(sk) : 0;
	note_sent(tuple, &now);
}

int note_datagram(struct __sk_buff *skb)
{
	struct tuple tuple = {};
	struct bpf_sock *sk;
	bool from, to;

	if (!find_ends(skb, &tuple))
		return PASS;
	from = declared(tuple.local_port);
	to = declared(tuple.remote_port);
	if (!from && !to)
		return PASS;
	sk = skb->sk;
	sk = sk ? bpf_sk_fullsock(sk) : 0;
	if (!is_as_before(sk, &tuple))
		note_of_socket(skb, sk, &tuple, from, to);
	return PASS;
}
