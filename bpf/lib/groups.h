/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The groups of a consumer: one by one where they are few, else those that the policy names. */

/* Groups of a consumer, or those of them that matter: gids stand behind one another at `gids`. */
struct groups {
	void *gids;
	u32 count, pad;
	u64 skip; /* bit i: the i-th is not held */
};

/* Of more groups than are gone through one by one, those that the row speaks of and the consumer
 * holds. The kernel keeps a list of groups sorted: the last that is not larger is looked for. There
 * is no branch, because the verifier would follow each way through each step of each search. */
static __always_inline void search_groups(struct tables *tables, struct target_row *row,
					  struct groups *groups)
{
	struct set *list = set_at(tables, row->gid_list);
	u64 skip = 0, failed = 0;
	void *listed = 0;

	/* the address alone: two elements of an array, which stand behind one another */
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
