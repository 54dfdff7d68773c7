/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Consumers of a stranger: their destination is a place where the listener does not own the target,
 * as listen_observer.c or user space found. A consumer is judged and counted as usual. It is
 * refused because of the listener, not because of its own rights.
 */

/* Runs for one packet are microseconds apart; a retransmitted SYN comes later. */
#define SAME_SYN_NS 3000000ULL

/* True if the verdict on this attempt, which has this tuple, applies to the packet that arrives
 * here. */
static __always_inline bool speaks_for(struct flow *flow, struct tuple *here, u32 target, u64 netns,
				       struct judged_syn *said)
{
	if (!is_judged_for(flow, here, target))
		return false;
	return !flow->foreign || flow->consumer.netns == netns ||
	       (said && said->vouched && said->netns == netns);
}

/* What is known of the listener that accepts a connection. */
struct taker {
	u32 flags, stranger_to;
};

/* A row made by user space cannot be checked now; user space deletes it at its next scan. */
static __always_inline bool listens(struct listener_owner *row, struct taker *taker)
{
	if (!row || (row->socket && !still_listens(row)))
		return false;
	taker->flags = row->flags;
	/* IP_TRANSPARENT may have been set after listen() */
	if (row->socket && is_transparent((void *)row->socket))
		taker->flags |= LISTENER_TRANSPARENT;
	taker->stranger_to = row->stranger_to;
	return true;
}

static __always_inline bool listens_at(struct owner_key *place, struct taker *taker)
{
	return listens(owners.lookup(place), taker) ||
	       listens(more_strangers.lookup(place), taker) ||
	       listens(more_owners.lookup(place), taker);
}

/* The listener for this place, searched in the kernel's order: exact address before wildcard,
 * wildcard of one family before that of both. All zero: none is known. */
static __always_inline void find_taker(struct tuple *here, u64 netns, struct taker *taker)
{
	struct owner_key place = {
		.netns = netns,
		.address = here->local,
		.port = here->local_port,
	};
	bool mapped = is_mapped(&here->local);

	if (listens_at(&place, taker))
		return;
	place.address.w[0] = place.address.w[1] = place.address.w[2] = place.address.w[3] = 0;
	if (mapped) {
		place.address.w[2] = bpf_htonl(0xffff);
		if (listens_at(&place, taker))
			return;
		place.address.w[2] = 0;
	}
	if (listens_at(&place, taker) && mapped && taker->flags & LISTENER_V6ONLY)
		taker->flags = taker->stranger_to = 0;
}

/* True if there may be a stranger of this target that no row describes. */
static __always_inline bool is_crowded(u32 target)
{
	u32 zero = 0;
	u64 *since = crowded.lookup(&target), *looked = crowded.lookup(&zero);

	return since && looked && *since > *looked;
}

static __always_inline bool misleads(struct taker *taker, u32 target)
{
	return taker->stranger_to == target || (is_crowded(target) && !(taker->flags & RIGHTFUL));
}

static __always_inline void count_misled(u32 target)
{
	u64 *count = misled.lookup(&target);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* A remote consumer counts when it is established or refused. It is refused here, so it is counted
 * here, with its own verdict. */
static __always_inline void count_remote(struct tuple *here, u64 netns, u32 slot, u32 target)
{
	struct flow *flow = packet_row(here, netns);

	if (flow && judge_remote(flow, slot, target))
		record_remote(flow);
}

/* True if this SYN is refused for the first time; notes it then. `said`: verdict on the packet
 * before it of the same tuple. */
static __always_inline bool is_fresh_syn(struct tuple *here, u64 netns, struct judged_syn *said,
					 u64 now_ns)
{
	struct judged_syn now = {
		.netns = netns, .time_ns = now_ns, .gate = GATE_SOCKET, .refused = true};

	if (said && said->refused && said->netns == netns &&
	    now.time_ns - said->time_ns < SAME_SYN_NS)
		return false;
	if (judged_syns.update(here, &now))
		lose(LOSS_TUPLES);
	return true;
}

/* Counts a refusal. An attempt of this host was counted at connect(). A packet after the connection
 * is closed is not an attempt. */
static __always_inline void note_misled(struct tuple *here, u64 netns, u32 slot, u32 target,
					struct judged_syn *said)
{
	u64 cookie = cookie_of_tuple(here);
	struct flow *flow = flows.lookup(&cookie);
	bool local =
		is_mark(cookie, ROWLESS) || (flow && speaks_for(flow, here, target, netns, said));

	if (is_mark(cookie, CLOSED) || !is_fresh_syn(here, netns, said, bpf_ktime_get_boot_ns()))
		return;
	count_refused(target, GATE_SOCKET);
	count_misled(target);
	if (!local)
		count_remote(here, netns, slot, target);
}

static __always_inline bool refuses_misled(struct tuple *here, u64 netns, u32 slot, u32 target,
					   struct judged_syn *said)
{
	struct taker there = {};
	struct target_row *row;
	struct tables tables;
	u32 key = target | OWNERS_OF;

	if (!open_tables(slot, &tables) || !find(tables.rows, &key))
		return false;
	find_taker(here, netns, &there);
	if (!misleads(&there, target) || is_failsafe(here->local_port) || !has_gate(GATE_SOCKET))
		return false;
	row = find(tables.rows, &target);
	if (!row || !enforces(row, target, bpf_ktime_get_boot_ns()))
		return false;
	note_misled(here, netns, slot, target, said);
	return true;
}
