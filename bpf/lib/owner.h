/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* May the current task serve a target? Judged like a consumer: see decision 9. */

/* `owned`: the row of the target's owners. `key`: the caller's own key in bind_clauses. `groups`:
 * the result of identify(). False also if there is no room to find out. */
static __always_inline bool is_no_owner(struct tables *tables, struct target_row *owned, u32 target,
					u64 key, struct identity *who, struct exe_name *name,
					void *groups, u64 now)
{
	struct set *all = set_at(tables, SET_ALL), *clauses;
	/* always 0, but unknown to the verifier, which would walk each value of a known one */
	struct verdict verdict = {.target = target, .uncertain = owned->candidate[0].pad};

	if (all)
		bind_clauses.update(&key, all);
	clauses = bind_clauses.lookup(&key);
	if (!clauses) {
		lose(LOSS_REFUSALS);
		return false;
	}
	local_set(tables, owned, who, name, groups, false, &verdict, clauses);
	decide(tables, owned, clauses, &verdict, now);
	bind_clauses.delete(&key);
	return verdict.decision == DENIED;
}
