/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * decide(): one function, one place. agent/policy/evaluate.py says the same in Python; generated
 * tests hold the two together. Loops stay rolled: unrolled, LLVM turns the sets into scalars and
 * the 512-byte stack is not enough.
 */

struct tables {
	void *rows, *members, *sets;
};

static __always_inline void *find(void *map, void *key)
{
	return map ? bpf_map_lookup_elem(map, key) : 0;
}

static __always_inline struct set *set_at(struct tables *tables, u32 id)
{
	return find(tables->sets, &id);
}

/* Sets are gone through in blocks of 4 words, and only as many blocks as the row says are in use:
 * fewer ways out of a loop than words, for the verifier's sake. False: that was the last one. */
static __always_inline bool in_use(u32 block, u32 blocks)
{
	KEEP(block);
	return block < blocks && block < SET_BLOCKS;
}

static __always_inline void narrow(struct set *set, struct set *by, u32 blocks)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; in_use(i, blocks); i++) {
		u64 *to = &set->w[i * 4], *from = &by->w[i * 4];

		to[0] &= from[0];
		to[1] &= from[1];
		to[2] &= from[2];
		to[3] &= from[3];
	}
}

static __always_inline void widen(struct set *set, struct set *by, u32 blocks)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; in_use(i, blocks); i++) {
		u64 *to = &set->w[i * 4], *from = &by->w[i * 4];

		to[0] |= from[0];
		to[1] |= from[1];
		to[2] |= from[2];
		to[3] |= from[3];
	}
}

enum match { NO_MATCH, POSSIBLE, KNOWN };

/* Do any of these clauses hold? KNOWN: one does for certain; POSSIBLE: were something known, one
 * could. */
static __always_inline enum match match(struct set *who, struct set *clauses, struct set *certain,
					u32 blocks)
{
	u64 possible = 0, known = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; in_use(i, blocks); i++) {
		u64 *x = &who->w[i * 4], *y = &clauses->w[i * 4], *z = &certain->w[i * 4];

		possible |= (x[0] & y[0]) | (x[1] & y[1]) | (x[2] & y[2]) | (x[3] & y[3]);
		known |= (x[0] & y[0] & z[0]) | (x[1] & y[1] & z[1]) | (x[2] & y[2] & z[2]) |
			 (x[3] & y[3] & z[3]);
	}
	return known ? KNOWN : possible ? POSSIBLE : NO_MATCH;
}

static __always_inline struct set *member(struct tables *tables, u32 dimension, u64 value)
{
	struct member_key key = {.dimension = dimension, .value = value};
	u32 *id = find(tables->members, &key);

	return id ? set_at(tables, *id) : 0;
}

/* As member(); what its value says beside the set is added to flags. */
static __always_inline struct set *cgroup_member(struct tables *tables, u64 value, u32 *flags)
{
	struct member_key key = {.dimension = CGROUP, .value = value};
	u32 *id = find(tables->members, &key);

	if (!id)
		return 0;
	*flags |= *id & MEMBER_UNSURE;
	return set_at(tables, *id & ~MEMBER_UNSURE);
}

static __always_inline bool speaks_of(struct target_row *row, u32 dimension)
{
	return row->dimensions >> dimension & 1;
}

/* Kept in memory: held in a register, the verifier would follow every combination on its own. */
static __always_inline void doubt(struct verdict *verdict, u8 what)
{
	volatile u8 *uncertain = &verdict->uncertain;

	*uncertain |= what;
}

static __always_inline bool is_in_doubt(struct verdict *verdict, u8 what)
{
	volatile u8 *uncertain = &verdict->uncertain;

	return *uncertain & what;
}

static __always_inline void narrow_by_exe(struct tables *tables, struct target_row *row,
					  struct exe_name *name, struct verdict *verdict,
					  struct set *who)
{
	u64 path = name->path & EXE_UNTRUSTED ? EXE_UNTRUSTED : name->path;
	struct set *found = member(tables, EXE, path);

	if (!found) {
		doubt(verdict, UNCERTAIN_EXE);
		found = member(tables, EXE_DIR, name->directory);
	}
	if (!found)
		found = set_at(tables, SET_MISS + EXE);
	if (found)
		narrow(who, found, row->blocks);
}

static __always_inline void narrow_by_uid(struct tables *tables, struct target_row *row, u32 uid,
					  struct set *who)
{
	struct set *found = member(tables, UID, uid);

	if (!found)
		found = set_at(tables, SET_MISS + UID);
	if (found)
		narrow(who, found, row->blocks);
}

static __always_inline void clear(struct set *set)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SET_WORDS; i++)
		set->w[i] = 0;
}

static __always_inline void narrow_by_gid(struct tables *tables, struct target_row *row, u32 gid,
					  void *groups, struct verdict *verdict, struct set *who,
					  struct set *any)
{
	struct set *found = set_at(tables, SET_MISS + GID);
	u32 count = 0;

	READ(count, groups, OFF_group_info__ngroups);
	if (count > MAX_GROUPS) {
		lose(LOSS_GROUPS);
		doubt(verdict, UNCERTAIN_GID);
		return;
	}
	clear(any);
	if (found)
		widen(any, found, row->blocks);
	found = member(tables, GID, gid);
	if (found)
		widen(any, found, row->blocks);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_GROUPS; i++) {
		KEEP(i);
		if (i >= count || i >= MAX_GROUPS)
			break;
		READ(gid, groups, OFF_group_info__gid + 4 * i);
		found = member(tables, GID, gid);
		if (found)
			widen(any, found, row->blocks);
	}
	narrow(who, any, row->blocks);
}

static __always_inline void narrow_by_cgroup(struct tables *tables, struct target_row *row,
					     struct verdict *verdict, struct set *who,
					     struct set *any)
{
	struct set *found = set_at(tables, SET_MISS + CGROUP);
	u32 flags = 0;

	if (bpf_get_current_ancestor_cgroup_id(MAX_CGROUPS + 1)) {
		lose(LOSS_CGROUPS);
		doubt(verdict, UNCERTAIN_CGROUP);
		return;
	}
	clear(any);
	if (found)
		widen(any, found, row->blocks);
#pragma clang loop unroll(disable)
	for (u32 level = 1; level <= MAX_CGROUPS; level++) {
		u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (!id)
			break;
		found = cgroup_member(tables, id, &flags);
		if (found)
			widen(any, found, row->blocks);
	}
	if (flags)
		doubt(verdict, UNCERTAIN_CONTAINER);
	narrow(who, any, row->blocks);
}

static __always_inline void narrow_by_netns(struct tables *tables, struct target_row *row,
					    u64 netns, struct verdict *verdict, struct set *who)
{
	struct set *found = member(tables, NETNS, netns);

	if (!found) {
		doubt(verdict, UNCERTAIN_NETNS);
		found = set_at(tables, SET_MISS + NETNS);
	}
	if (found)
		narrow(who, found, row->blocks);
}

/* The clauses that hold, or could hold, for the current task; verdict->uncertain tells the
 * difference. Only the dimensions that this target's principals speak of are looked at: the others
 * can't change the answer. */
static __always_inline void local_set(struct tables *tables, struct target_row *row,
				      struct identity *who, struct exe_name *name, void *groups,
				      struct verdict *verdict, struct set *set)
{
	struct set any; /* shared, for the sake of the stack */

#pragma clang loop unroll(disable)
	for (u32 i = 0; in_use(i, row->blocks); i++) {
		u64 *to = &set->w[i * 4];

		to[0] = to[1] = to[2] = to[3] = ~0ULL;
	}
	if (speaks_of(row, EXE))
		narrow_by_exe(tables, row, name, verdict, set);
	if (speaks_of(row, UID))
		narrow_by_uid(tables, row, who->uid, set);
	if (speaks_of(row, GID))
		narrow_by_gid(tables, row, who->gid, groups, verdict, set, &any);
	if (speaks_of(row, CGROUP))
		narrow_by_cgroup(tables, row, verdict, set, &any);
	if (speaks_of(row, NETNS))
		narrow_by_netns(tables, row, who->netns, verdict, set);
}

/* What the license's state and window say now: 0, or the reason that denies. */
static __always_inline u8 window_reason(struct target_row *row, struct candidate *candidate,
					u64 now)
{
	if (candidate->state)
		return candidate->state;
	if (now < candidate->from_ns && row->clock_synced)
		return NOT_YET_VALID;
	if (now >= candidate->ends_ns)
		return EXPIRED;
	return 0;
}

static __always_inline void allow(struct verdict *verdict, struct candidate *candidate, u64 now)
{
	verdict->grant = candidate->grant;
	verdict->decision = GRACE;
	if (now < candidate->from_ns) {
		verdict->reason = CLOCK_UNSYNCED;
	} else if (now >= candidate->expires_ns) {
		verdict->reason = EXPIRED;
	} else {
		verdict->decision = ALLOWED;
		verdict->reason = LICENSED;
	}
}

static __always_inline void decide(struct tables *tables, struct target_row *row, struct set *who,
				   struct verdict *verdict, u64 now)
{
	struct set *certain =
		set_at(tables, SET_CERTAIN + (verdict->uncertain & DIMENSIONS_IN_DOUBT));
	struct set *excluded = set_at(tables, row->excluded);
	enum match found;

	verdict->decision = DENIED;
	verdict->reason = NO_LICENSE;
	if (!certain || !excluded) {
		lose(LOSS_NO_ROW);
		return;
	}
	found = match(who, excluded, certain, row->blocks);
	if (found == KNOWN) {
		verdict->reason = EXCLUDED;
		return;
	}
	if (!row->candidates)
		return;
	if (found == POSSIBLE)
		doubt(verdict, MAYBE_EXCLUDED);
	verdict->reason = UNLICENSED_PRINCIPAL;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < CANDIDATES; i++) {
		struct candidate *candidate;
		struct set *principal;
		u8 reason;

		KEEP(i);
		if (i >= row->candidates || i >= CANDIDATES)
			break;
		candidate = &row->candidate[i];
		principal = set_at(tables, candidate->principal);
		if (!principal)
			continue;
		found = match(who, principal, certain, row->blocks);
		if (found == NO_MATCH)
			continue;
		reason = window_reason(row, candidate, now);
		if (!reason && found == KNOWN && !is_in_doubt(verdict, MAYBE_EXCLUDED)) {
			allow(verdict, candidate, now);
			return;
		}
		if (!reason) {
			doubt(verdict, MAYBE_GRANTED);
		} else if (found == KNOWN && reason > verdict->reason) {
			verdict->reason = reason;
			verdict->grant = candidate->grant;
		}
	}
	if (is_in_doubt(verdict, MAYBE_GRANTED)) {
		verdict->reason = UNRESOLVED;
		verdict->grant = 0;
		verdict->decision = row->unresolved_allowed ? ALLOWED : DENIED;
	}
}
