/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The groups of a consumer: all of them if few, else those that the policy names. */

/* Groups to look up: all of a consumer's, or those that the row lists. `gids` points to an
 * array. */
struct groups {
	void *gids;
	u32 count, pad;
	u64 skip; /* bit i: the consumer does not hold the i-th */
};

/* For a consumer with more than SOME_GROUPS groups: finds which of the row's listed groups it
 * holds. The kernel keeps a list of groups sorted, so this is a binary search for the last gid that
 * is not larger. The code has no branch, because the verifier would walk every way through every
 * step of every search. */
static __always_inline void search_groups(struct tables *tables, struct target_row *row,
					  struct groups *groups)
{
	struct set *list = set_at(tables, row->gid_list);
	u64 skip = 0, failed = 0;
	void *listed = 0;

	/* reads only the address: the list fills two array elements, which are adjacent */
	bpf_probe_read_kernel(&listed, sizeof(listed), &list);
#pragma clang loop unroll(disable)
	for (u64 i = 0; i < LISTED_GROUPS; i++) {
		u64 low = 0, left = groups->count, differs;
		u32 wanted = 0, here = 0;

		KEEP(i);
		failed |= READ(wanted, listed, 4 * i);
#pragma clang loop unroll(disable)
		for (u64 step = 0; step < GROUP_STEPS; step++) {
			u64 half = left / 2, is_larger;

			KEEP(step);
			READ(here, groups->gids, 4 * (low + half));
			is_larger = (u64)wanted - here;
			asm volatile("%0 >>= 63" : "+r"(is_larger));
			low += half * (1 - is_larger);
			left -= half;
		}
		failed |= READ(here, groups->gids, 4 * low);
		differs = -(u64)(here ^ wanted);
		asm volatile("%0 >>= 63" : "+r"(differs));
		skip |= differs << i;
	}
	if (failed)
		lose(LOSS_GROUPS);
	groups->gids = listed;
	groups->count = LISTED_GROUPS;
	groups->skip = skip;
}
