/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The clauses that hold, or could hold, for the current task. There is one step for each kind of
 * selector. */

/* A set for the exact path is complete. Otherwise the sets of its directory and of the matching
 * globs are joined. */
static __always_inline void narrow_by_exe(struct tables *tables, struct target_row *row,
					  struct exe_name *name, struct verdict *verdict,
					  struct set *who, struct set *any)
{
	u64 path = name->path & EXE_UNTRUSTED ? EXE_UNTRUSTED : name->path;
	struct set *found = member(tables, EXE, path);
	struct glob_key key = {.path = path, .generation = name->globs};
	struct glob_sets *globs = 0;

	if (name->path == EXE_UNKNOWN) { /* the path is unknown, so every clause may hold */
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

/* A lookup that fails adds an empty set: fewer paths for the verifier than a branch around it. */
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

/*
 * For exclusions, a task in a user namespace also counts as the owner of that namespace and of each
 * one around it. Those owners could give the task its ids and take groups from it. Deeper than
 * MAX_OWNERS, any user could be an owner.
 *
 * A subordinate id also counts as the user it was given to, who could take on that id and leave
 * files owned by it. In a user namespace, the owner of the outermost one counts in the same way.
 * dimension: UID or GID.
 */
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

static __always_inline void narrow_by_gid(struct tables *tables, struct target_row *row,
					  struct identity *process, void *group_info,
					  bool excluding, struct set *who, struct set *any)
{
	struct groups groups = {
		.gids = group_info + OFF_group_info__gid,
	};
	volatile u32 *count = &groups.count;
	volatile u64 *skip = &groups.skip; /* not in registers, for the reason given at doubt() */
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
	/* copied onto itself, so that the verifier forgets its contents and does not walk each
	 * case */
	bpf_probe_read_kernel(&groups, sizeof(groups), &groups);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_GROUPS; i++) {
		KEEP(i);
		if (i >= *count)
			break;
		READ(gid, groups.gids, 4 * i);
		found = member(tables, GID,
			       gid | (*skip >> i &
				      1) << 32); /* no gid is this large, so the lookup fails */
		if (found)
			widen_whole(any, found);
	}
	if (excluding && speaks_of(row, ASKS_USER_NAMESPACE))
		widen_by_owners(tables, row, GID, process->uid, any);
	narrow(who, any, row->blocks);
}

/* For a task that is, or may be, in a container: clauses beside those of its cgroups. */
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

/* The clauses that hold, or could hold, for the current task; verdict->uncertain tells the two
 * apart. Only dimensions that this target's principals use are evaluated, because others cannot
 * change the result. excluding, a compile-time constant: the row may contain exclusions. */
static __always_inline void local_set(struct tables *tables, struct target_row *row,
				      struct identity *who, struct exe_name *name, void *groups,
				      bool excluding, struct verdict *verdict, struct set *set)
{
	struct set any; /* one for all steps, to save stack */

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
