/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * decide(): one function, one place. agent/policy/decision/evaluate.py says the same in Python;
 * generated tests hold the two together. Loops stay rolled: unrolled, LLVM turns the sets into
 * scalars and the 512-byte stack is not enough.
 */

struct tables {
	void *rows, *members, *sets;
	u32 slot;
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

/* The same of all words, without a way out in between: in a loop of groups, the verifier would
 * follow each. */
static __always_inline void widen_whole(struct set *set, struct set *by)
{
#pragma unroll
	for (u32 i = 0; i < SET_WORDS; i++) {
		set->w[i] |= by->w[i];
		asm volatile("" : : : "memory"); /* else LLVM holds the set in registers */
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
	*flags |= *id & MEMBER_FLAGS;
	return set_at(tables, *id & ~MEMBER_FLAGS);
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

static __always_inline void clear(struct set *set)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SET_WORDS; i++)
		set->w[i] = 0;
}

/* What is said of a path holds for it whole; else what is said of its directory, and what globs
 * take it. */
static __always_inline void narrow_by_exe(struct tables *tables, struct target_row *row,
					  struct exe_name *name, struct verdict *verdict,
					  struct set *who, struct set *any)
{
	u64 path = name->path & EXE_UNTRUSTED ? EXE_UNTRUSTED : name->path;
	struct set *found = member(tables, EXE, path);
	struct glob_key key = {.path = path, .generation = name->globs};
	struct glob_sets *globs = 0;

	if (name->path == EXE_UNKNOWN) { /* whichever it is, may hold */
		doubt(verdict, UNCERTAIN_PATH);
		return;
	}
	if (!found && name->globs)
		globs = exe_globs.lookup(&key);
	if (!found) {
		doubt(verdict, UNCERTAIN_EXE);
		found = member(tables, EXE_DIR, name->directory & ~(u64)EXE_ELSEWHERE);
	}
	if (!found)
		found = set_at(tables, SET_MISS + EXE);
	if (found && globs) {
		clear(any);
		widen(any, found, row->blocks);
#pragma clang loop unroll(disable)
		for (u32 i = 0; i < SHAPES; i++) {
			KEEP(i);
			found = globs->set[i] ? set_at(tables, globs->set[i]) : 0;
			if (!found)
				break;
			widen(any, found, row->blocks);
		}
		found = any;
	}
	if (found)
		narrow(who, found, row->blocks);
	if (name->directory & EXE_ELSEWHERE) {
		found = set_at(tables, SET_ELSEWHERE);
		if (found)
			narrow(who, found, row->blocks);
	}
}

/* What is not found is empty: fewer ways for the verifier to follow than one around it. */
static __always_inline void widen_by_id(struct tables *tables, u32 *id, struct set *any)
{
	struct set *found = set_at(tables, id ? *id : SET_EMPTY);

	if (found)
		widen_whole(any, found);
}

static __always_inline void widen_by_member(struct tables *tables, u32 dimension, u32 value,
					    struct set *any)
{
	struct member_key key = {.dimension = dimension, .value = value};

	widen_by_id(tables, find(tables->members, &key), any);
}

static __always_inline void widen_by_subordinate(struct tables *tables, struct target_row *row,
						 u32 dimension, u32 uid, struct set *any)
{
	struct subordinate_key key = {
		.prefixlen = 8 * (sizeof(key) - sizeof(key.prefixlen)),
		.dimension = dimension,
		.uid_net = bpf_htonl(uid),
	};
	u32 slot = tables->slot;

	if (speaks_of(row, ASKS_SUBORDINATE))
		widen_by_id(tables, find(subordinates.lookup(&slot), &key), any);
}

/* Whoever is in a user namespace is, for an exclusion, also who owns it, or one around it: that is
 * who could give him his ids, and take groups from him. Deeper than MAX_OWNERS, anybody could be.
 * And a subordinate id is also the user who was given it, who could become it and leave files of
 * its own; in a user namespace, that of whoever owns the outermost one. dimension: UID or GID. */
static __always_inline void widen_by_owners(struct tables *tables, struct target_row *row,
					    u32 dimension, u32 uid, struct set *any)
{
	void *space = user_namespace(), *around = 0;
	struct set *found;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_OWNERS; i++) {
		u32 group = 0;

		KEEP(i);
		if (!space || READ(around, space, OFF_user_namespace__parent) || !around)
			break;
		READ(uid, space, OFF_user_namespace__owner);
		if (dimension == GID) {
			READ(group, space, OFF_user_namespace__group);
			widen_by_member(tables, OWNER_GID, group, any);
			widen_by_member(tables, OWNER_MEMBER, uid, any);
		} else {
			widen_by_member(tables, OWNER_UID, uid, any);
		}
		space = around;
	}
	widen_by_subordinate(tables, row, dimension, uid, any);
	if (around)
		READ(around, space, OFF_user_namespace__parent);
	found = around ? set_at(tables, SET_OWNED) : 0;
	if (found)
		widen_whole(any, found);
}

static __always_inline void narrow_by_uid(struct tables *tables, struct target_row *row, u32 uid,
					  bool excluding, struct set *who, struct set *any)
{
	struct set *found = member(tables, UID, uid);

	if (!found)
		found = set_at(tables, SET_MISS + UID);
	if (!found)
		return;
	if (!excluding || !speaks_of(row, ASKS_USER_NAMESPACE)) {
		narrow(who, found, row->blocks);
		return;
	}
	clear(any);
	widen(any, found, row->blocks);
	widen_by_owners(tables, row, UID, uid, any);
	narrow(who, any, row->blocks);
}

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

static __always_inline void narrow_by_gid(struct tables *tables, struct target_row *row,
					  struct identity *process, void *group_info,
					  bool excluding, struct set *who, struct set *any)
{
	struct groups groups = {
		.gids = group_info + OFF_group_info__gid,
	};
	volatile u32 *count = &groups.count;
	volatile u64 *skip = &groups.skip; /* not in registers, as in doubt() */
	struct set *found = set_at(tables, SET_MISS + GID);
	u32 gid = process->gid;

	READ(groups.count, group_info, OFF_group_info__ngroups);
	clear(any);
	if (found)
		widen(any, found, row->blocks);
	found = member(tables, GID, gid);
	if (found)
		widen(any, found, row->blocks);
	if (groups.count > MAX_GROUPS)
		search_groups(tables, row, &groups);
	/* onto itself: whatever the verifier knew of it, it would follow each case on its own */
	bpf_probe_read_kernel(&groups, sizeof(groups), &groups);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_GROUPS; i++) {
		KEEP(i);
		if (i >= *count)
			break;
		READ(gid, groups.gids, 4 * i);
		found = member(tables, GID, gid | (*skip >> i & 1) << 32); /* no gid is so large */
		if (found)
			widen_whole(any, found);
	}
	if (excluding && speaks_of(row, ASKS_USER_NAMESPACE))
		widen_by_owners(tables, row, GID, process->uid, any);
	narrow(who, any, row->blocks);
}

/* In a container, or perhaps in one: beside what its cgroups say. */
static __always_inline void narrow_by_container(struct tables *tables, struct target_row *row,
						u32 flags, struct verdict *verdict, struct set *who,
						struct set *any)
{
	struct set *found;

	doubt(verdict, flags & MEMBER_UNSURE ? UNCERTAIN_CONTAINER : 0);
	if (flags & MEMBER_CONTAINER || in_pid_namespace()) {
		found = set_at(tables, SET_ANY_CONTAINER);
		if (found)
			widen(any, found, row->blocks);
		found = set_at(tables, SET_IN_CONTAINER);
		if (found)
			narrow(who, found, row->blocks);
	} else {
		doubt(verdict, flags & MEMBER_UNSURE ? UNCERTAIN_ANY_CONTAINER : 0);
	}
}

static __always_inline void narrow_by_cgroup(struct tables *tables, struct target_row *row,
					     struct verdict *verdict, struct set *who,
					     struct set *any)
{
	struct set *found = set_at(tables, SET_MISS + CGROUP);
	u32 flags = 0;

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
	narrow_by_container(tables, row, flags, verdict, who, any);
	doubt(verdict, flags & MEMBER_UNSURE_UNIT ? UNCERTAIN_CGROUP : 0);
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
 * can't change the answer. excluding, known to the compiler: such a row may exclude somebody. */
static __always_inline void local_set(struct tables *tables, struct target_row *row,
				      struct identity *who, struct exe_name *name, void *groups,
				      bool excluding, struct verdict *verdict, struct set *set)
{
	struct set any; /* shared, for the sake of the stack */

#pragma clang loop unroll(disable)
	for (u32 i = 0; in_use(i, row->blocks); i++) {
		u64 *to = &set->w[i * 4];

		to[0] = to[1] = to[2] = to[3] = ~0ULL;
	}
	if (speaks_of(row, EXE))
		narrow_by_exe(tables, row, name, verdict, set, &any);
	if (speaks_of(row, UID))
		narrow_by_uid(tables, row, who->uid, excluding, set, &any);
	if (speaks_of(row, GID))
		narrow_by_gid(tables, row, who, groups, excluding, set, &any);
	if (speaks_of(row, CGROUP) || speaks_of(row, ASKS_CONTAINER))
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

/* Who could be licensed, but is not known well enough: can a target that enforces afford it? */
static __always_inline bool lets_in_unresolved(struct target_row *row, u32 target, u64 now)
{
	if (row->unresolved == UNRESOLVED_ALLOW_UNLESS_ENFORCING)
		return !enforces(row, target, now);
	return row->unresolved == UNRESOLVED_ALLOW;
}

/* verdict->target is set. */
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
		verdict->decision =
			lets_in_unresolved(row, verdict->target, now) ? ALLOWED : DENIED;
	}
}
