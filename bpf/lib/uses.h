/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Finds the row of uses for an attempt. Unprivileged users choose what makes a row: executables,
 * cgroups, source addresses. So local and remote rows have separate limits, and each user and each
 * network has a share of them. Above its share, and where rows are scarce, one row stands for many
 * consumers. Each decision still has a row.
 */

/* The uid that is accountable for the current task. In a user namespace it is the creator of the
 * outermost one, who could give the task any of many ids. */
static __always_inline u32 who_answers(u32 uid)
{
	void *space = user_namespace();

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_OWNERS; i++) {
		void *around = 0;

		KEEP(i);
		READ(around, space, OFF_user_namespace__parent);
		if (!space || !around)
			return uid;
		READ(uid, space, OFF_user_namespace__owner);
		space = around;
	}
	return -1; /* nested more deeply: all such tasks count as one */
}

/* Turns `key` into that of the row that stands for many consumers; returns the index of their
 * share. */
static __always_inline u32 widen_key(struct use_key *key, u32 side)
{
	struct settings *now = get_settings();
	struct address *source = &key->source;
	u64 seed = now ? now->seed : 0, whose;

	key->use_of = USE_OF_MANY;
	if (side == USE_LOCAL) {
		key->exe = key->cgroup = 0;
		key->uid = who_answers(key->uid);
		whose = key->uid;
	} else if (is_mapped(source)) {
		source->w[3] &= bpf_htonl(0xffff0000);
		whose = source->w[3];
	} else {
		source->w[1] &= bpf_htonl(0xffff0000);
		whose = (u64)source->w[0] << 32 | source->w[1];
	}
	return USE_SIDES + side * USE_SHARES + (factor_of(seed ^ whose) >> 32) % USE_SHARES;
}

static __always_inline bool has_fewer(u32 index, u64 most)
{
	u64 *count = use_counts.lookup(&index);

	return count && *count < most;
}

static __always_inline void count_row(u32 index)
{
	u64 *count = use_counts.lookup(&index);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline struct use *new_use(struct use_key *key, u32 side, u32 share)
{
	struct use *blank, *use;
	u32 zero = 0;

	blank = blank_use.lookup(&zero);
	if (blank && !uses.insert(key, blank)) {
		count_row(side);
		count_row(share);
	}
	use = uses.lookup(key);
	if (use)
		use->share = share;
	else
		lose(LOSS_USES_FULL);
	return use;
}

/* The row of a consumer, or the row that stands for it and others; `key` is then changed to that
 * row's. */
static __always_inline struct use *use_for(struct use_key *key, u32 side)
{
	struct use *use = uses.lookup(key);
	struct use_key many;
	u32 share;

	if (use)
		return use;
	many = *key;
	share = widen_key(&many, side);
	if (has_fewer(side, USES_OF_SIDE) && has_fewer(share, USES_OF_SHARE))
		return new_use(key, side, share);
	*key = many;
	use = uses.lookup(key);
	if (use)
		return use;
	if (!has_fewer(side, USES_OF_MANY)) {
		key->use_of = USE_OF_OTHERS;
		key->uid = 0;
		key->source.w[0] = key->source.w[1] = key->source.w[2] = key->source.w[3] = 0;
		use = uses.lookup(key);
		if (use)
			return use;
	}
	return new_use(key, side, share);
}
