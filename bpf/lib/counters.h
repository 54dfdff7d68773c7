/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Counting. The counters are exact whether or not the events are emitted. */

static __always_inline void count_attempt(struct verdict *verdict)
{
	struct count_key key = {
		.target = verdict->target,
		.decision = verdict->decision,
		.reason = verdict->reason,
		.origin = verdict->origin,
		.protocol = verdict->protocol,
	};
	u64 *count = counts.lookup(&key), zero = 0;

	if (!count) {
		/* BPF_NOEXIST: another CPU may have made the row meanwhile, with counts in it */
		counts.insert(&key, &zero);
		count = counts.lookup(&key);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		lose(LOSS_COUNTS_FULL);
}

static __always_inline void count_opened(u32 target)
{
	struct flow_count *count = flow_counts.lookup(&target);

	if (count)
		__sync_fetch_and_add(&count->opened, 1);
}

static __always_inline void count_closed(u32 target)
{
	struct flow_count *count = flow_counts.lookup(&target);

	if (count)
		__sync_fetch_and_add(&count->closed, 1);
}

static __always_inline void count_unprotected(u32 direction)
{
	u64 *count = unprotected.lookup(&direction);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* The connection turned out to be an attempt on a target. */
static __always_inline void uncount_unprotected(u32 direction)
{
	u64 *count = unprotected.lookup(&direction);

	if (count)
		__sync_fetch_and_add(count, -1ULL);
}

static __always_inline void count_edge(struct edge_key *key)
{
	u64 *count = edges.lookup(key), one = 1;

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		edges.update(key, &one); /* an LRU map: it has the busiest edges, not all */
}
