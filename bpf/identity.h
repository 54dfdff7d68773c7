/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who the current task is. Kernel structs are read at offsets that the loader takes from BTF
 * (OFF_ + struct + __ + field); a read that fails leaves 0 and is counted.
 */

/* Without this, LLVM folds both bounds of a loop into one count that the verifier can't follow
 * (seen with LLVM 14 and, more often, 19). */
#define KEEP(i) asm volatile("" : "+r"(i))

#define READ(dst, base, off) bpf_probe_read_kernel(&(dst), sizeof(dst), (void *)(base) + (off))

#define HASH_MULTIPLIER 0x9FB21C651E98DF25ULL
#define RENAME_NS	1000000000ULL

static __always_inline u64 mix(u64 state, u64 word)
{
	state = (state ^ word) * HASH_MULTIPLIER;
	return state ^ (state >> 32);
}

/* In chunks that are filled up with zeros: the same words as _mix_bytes() in
 * agent/policy/hashing.py. Large chunks, because the verifier goes through this loop for each
 * component of a path. */
static __always_inline u64 mix_name(u64 state, void *name, u32 bytes)
{
	state = mix(state, bytes);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < NAME_CHUNKS; i++) {
		u64 chunk[CHUNK_WORDS] = {}, done = i * sizeof(chunk), left = bytes - done;

		KEEP(i);
		if (done >= bytes)
			break;
		KEEP(left);
		if (left > sizeof(chunk))
			left = sizeof(chunk);
		bpf_probe_read_kernel(chunk, left, name + done);
#pragma unroll
		for (u32 word = 0; word < CHUNK_WORDS; word++)
			state = mix(state, chunk[word]);
	}
	return state;
}

struct walk {
	void *mount, *dentry;
	void *name;
	u32 bytes;
};

enum step { STEP_NAME, STEP_MOUNT, STEP_ROOT };

/* One step from a file towards the root of its mount namespace. */
static __always_inline enum step walk_up(struct walk *walk)
{
	void *root = 0, *up = 0, *parent = 0;

	READ(root, walk->mount, OFF_mount__mnt + OFF_vfsmount__mnt_root);
	READ(up, walk->dentry, OFF_dentry__d_parent);
	if (walk->dentry == root || walk->dentry == up) {
		READ(parent, walk->mount, OFF_mount__mnt_parent);
		if (!parent || parent == walk->mount)
			return STEP_ROOT;
		READ(walk->dentry, walk->mount, OFF_mount__mnt_mountpoint);
		walk->mount = parent;
		return STEP_MOUNT;
	}
	READ(walk->bytes, walk->dentry, OFF_dentry__d_name + OFF_qstr__len);
	READ(walk->name, walk->dentry, OFF_dentry__d_name + OFF_qstr__name);
	walk->dentry = up;
	return STEP_NAME;
}

/* The executable of the current task; false for a kernel thread. */
static __always_inline bool start_walk(struct walk *walk)
{
	void *task = (void *)bpf_get_current_task(), *mm = 0, *file = 0, *mount = 0;

	READ(mm, task, OFF_task_struct__mm);
	if (!mm || READ(file, mm, OFF_mm_struct__exe_file) || !file)
		return false;
	READ(mount, file, OFF_file__f_path + OFF_path__mnt);
	READ(walk->dentry, file, OFF_file__f_path + OFF_path__dentry);
	walk->mount = mount - OFF_mount__mnt;
	return true;
}

/* Is this mount in a namespace made by somebody without privilege? There, anybody can give any file
 * any name (mount --bind in a user namespace), so a name proves nothing. */
static __always_inline bool names_are_untrusted(void *mount)
{
	void *mounts = 0, *user = 0;
	u32 level = 1;

	READ(mounts, mount, OFF_mount__mnt_ns);
	READ(user, mounts, OFF_mnt_namespace__user_ns);
	if (READ(level, user, OFF_user_namespace__level))
		return true;
	return level != 0;
}

/* A flag, not a counter, tells the leaf: the verifier would follow every value of a counter. */
static __always_inline void hash_path(u64 seed, struct walk *walk, struct exe_name *name)
{
	u64 path = seed, directory = seed;
	bool leaf = true;
	enum step step = STEP_NAME;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PATH_COMPONENTS; i++) {
		u64 component;

		step = walk_up(walk);
		if (step == STEP_ROOT)
			break;
		if (step == STEP_MOUNT)
			continue;
		component = mix_name(seed, walk->name, walk->bytes);
		path = mix(path, component);
		if (!leaf)
			directory = mix(directory, component);
		leaf = false;
	}
	/* An ordinary root directory is itself mounted, on the kernel's first one: a step of its
	 * own. */
	if (step != STEP_ROOT)
		step = walk_up(walk);
	if (step == STEP_MOUNT)
		step = walk_up(walk);
	if (step != STEP_ROOT) {
		lose(LOSS_PATH);
		path = directory = mix(path, ~0ULL); /* no path has this hash */
	}
	name->path = path & ~1ULL;
	name->directory = directory & ~1ULL;
}

/*
 * Hashes of the current executable's path and of its directory; true where they were computed anew,
 * which for one executable happens once a second. What is cached is keyed by what it was computed
 * from: mount, directory entry, and the entry's name (hash and length; the kernel salts the hash
 * with the parent). Renaming a directory above changes no part of the key, therefore entries age.
 */
static __always_inline bool exe_of_current(u64 seed, u64 now, struct exe_name *name)
{
	struct exe_key key = {};
	struct exe_name *known;
	struct walk walk = {};

	name->path = name->directory = EXE_NONE;
	if (!start_walk(&walk))
		return false;
	key.mount = (u64)walk.mount;
	key.dentry = (u64)walk.dentry;
	READ(key.name, walk.dentry, OFF_dentry__d_name);
	known = exe_names.lookup(&key);
	if (known && now < known->until_ns) {
		name->path = known->path;
		name->directory = known->directory;
		return false;
	}
	hash_path(seed, &walk, name);
	if (names_are_untrusted((void *)key.mount))
		name->path |= EXE_UNTRUSTED;
	name->until_ns = now + RENAME_NS;
	exe_names.update(&key, name);
	return true;
}

/* Fills in what no helper tells; returns the task's group_info. */
static __always_inline void *read_identity(struct identity *who, u64 exe, void *task)
{
	void *leader = 0, *cred = 0, *groups = 0;
	int failed = 0;

	who->exe = exe;
	failed |= READ(leader, task, OFF_task_struct__group_leader);
	failed |= READ(who->start_ns, leader, OFF_task_struct__start_boottime);
	failed |= READ(cred, task, OFF_task_struct__cred);
	failed |= READ(who->uid, cred, OFF_cred__euid);
	failed |= READ(who->gid, cred, OFF_cred__egid);
	failed |= READ(groups, cred, OFF_cred__group_info);
	if (failed)
		lose(LOSS_IDENTITY);
	return groups;
}

/* Fills who; returns the task's group_info. */
static __always_inline void *identify(struct identity *who, u64 exe)
{
	who->pid = bpf_get_current_pid_tgid() >> 32;
	who->cgroup = bpf_get_current_cgroup_id();
	return read_identity(who, exe, (void *)bpf_get_current_task());
}

/* The same where there are no helpers to ask: sockops programs have none before Linux 6.10. */
static __always_inline void identify_unaided(struct identity *who, u64 exe)
{
	void *task = (void *)bpf_get_current_task(), *at = 0;
	int failed = 0;

	failed |= READ(who->pid, task, OFF_task_struct__tgid);
	failed |= READ(at, task, OFF_task_struct__cgroups);
	failed |= READ(at, at, OFF_css_set__dfl_cgrp);
	failed |= READ(at, at, OFF_cgroup__kn);
	failed |= READ(who->cgroup, at, OFF_kernfs_node__id);
	if (failed)
		lose(LOSS_IDENTITY);
	read_identity(who, exe, task);
}

/* No helper either: what calls this is part of sockops programs, too. */
static __always_inline void copy_comm(char comm[16])
{
	void *task = (void *)bpf_get_current_task();

	bpf_probe_read_kernel(comm, 16, task + OFF_task_struct__comm);
}
