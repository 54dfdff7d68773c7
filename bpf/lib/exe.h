/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The executable of the current task: the hash of its path, and the globs that match it. */

static __always_inline void hash_path(struct hash_key *secret, struct path_walk *path,
				      struct exe_name *name)
{
	u64 whole = secret->seed, directory = secret->seed,
	    place = mix(secret, secret->seed, NEXT_PLACE);

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PATH_COMPONENTS; i++) {
		u64 component;

		KEEP(i);
		if (i >= path->count)
			break;
		component = hash_component(secret, path, path->name[i], path->bytes[i]);
		path->term[i] = term_of(secret, place, component);
		path->sum += path->term[i];
		place = mix(secret, place, NEXT_PLACE);
		whole = mix(secret, whole, component);
		if (i)
			directory = mix(secret, directory, component);
	}
	name->path = whole & ~1ULL;
	name->directory = directory & ~1ULL;
}

static __always_inline void store_globs(u64 policy, struct path_walk *path)
{
	struct glob_key key = {.path = path->found.name.path, .generation = policy};

	path->found.name.globs = policy;
	if (exe_globs.update(&key, &path->sets))
		lose(LOSS_IDENTITY);
}

/* The members of the policy's tables in this generation. */
static __always_inline void *members_in(u64 policy)
{
	u32 slot = policy & 1;

	return members.lookup(&slot);
}

/* Hashes the path and matches its globs. */
static __always_inline void name_of_walk(u64 seed, u64 policy, struct walk *walk,
					 struct path_walk *path)
{
	struct exe_name *name = &path->found.name;
	struct hash_key secret = hash_key(seed);
	void *members = members_in(policy);

	path->is_untrusted = names_are_untrusted(walk->mount);
	note_names(walk, path);
	hash_path(&secret, path, name);
	if (path->is_cut) {
		lose(LOSS_PATH);
		name->path =
			mix(&secret, name->path,
			    ~0ULL); /* a value of its own: the truncated path names another file */
		path->is_untrusted = true;
	} else if (!is_hosts_root(walk->root)) {
		name->directory |= EXE_ELSEWHERE;
	}
	if (path->is_untrusted)
		name->path |= EXE_UNTRUSTED;
	else if (members)
		match_globs(&secret, members, path);
	if (path->globs)
		store_globs(policy, path);
}

/* True if the cached result of an earlier walk is complete and valid under this policy. */
static __always_inline bool holds_still(struct exe_row *row, u64 policy, u64 now)
{
	struct glob_key key = {.path = row->name.path, .generation = policy};

	if (now >= row->until_ns || row->generation != policy)
		return false;
	return !row->name.globs || exe_globs.lookup(&key);
}

/*
 * Hashes of the current executable's path and of its directory. True if they were computed anew,
 * which happens once a second per executable.
 *
 * The cache key is what the hashes are computed from: mount, dentry, and the dentry's name (hash
 * and length; the kernel salts the hash with the parent). Renaming a directory above changes no
 * part of the key, so entries expire. Globs belong to one generation of the policy.
 */
static __always_inline bool exe_of_current(u64 seed, u64 policy, u64 now, struct exe_name *name)
{
	u64 thread = bpf_get_current_task();
	struct path_walk *path;
	struct exe_key key = {};
	struct exe_row *known;
	struct walk walk = {};

	name->path = name->directory = EXE_NONE;
	if (!start_walk(&walk))
		return false;
	key.mount = (u64)walk.mount;
	key.dentry = (u64)walk.dentry;
	READ(key.name, walk.dentry, OFF_dentry__d_name);
	known = exe_names.lookup(&key);
	if (known && holds_still(known, policy, now)) {
		*name = known->name;
		return false;
	}
	path = path_row(thread);
	if (!path) {
		name->path = EXE_UNKNOWN;
		lose(LOSS_IDENTITY);
		return false;
	}
	name_of_walk(seed, policy, &walk, path);
	path->found.until_ns = now + RENAME_NS;
	path->found.generation = policy;
	exe_names.update(&key, &path->found); /* only a cache: else the next call walks */
	*name = path->found.name;
	path_walks.delete(&thread);
	return true;
}
