/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The identity of the current task. A failed read leaves 0, and counts as a loss where 0 could be
 * taken for an answer. Reads of the current task and its executable cannot fail while it runs.
 */

#define RENAME_NS 1000000000ULL

struct walk {
	void *mount, *dentry;
	void *root; /* after the walk: the mount at which the path begins (see container.h) */
	void *name;
	long failed; /* nonzero: a read failed, so the path may be incomplete */
	u32 bytes;
};

enum step { STEP_NAME, STEP_MOUNT, STEP_ROOT };

/* One step from a file towards the root of its mount namespace. */
static __always_inline enum step walk_up(struct walk *walk)
{
	void *root = 0, *up = 0, *parent = 0;

	walk->failed |= READ(root, walk->mount, OFF_mount__mnt + OFF_vfsmount__mnt_root);
	walk->failed |= READ(up, walk->dentry, OFF_dentry__d_parent);
	if (walk->dentry == root || walk->dentry == up) {
		walk->failed |= READ(parent, walk->mount, OFF_mount__mnt_parent);
		if (!parent || parent == walk->mount)
			return STEP_ROOT;
		if (!covers_root(walk->mount, parent))
			walk->root = parent;
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
	walk->root = walk->mount;
	return true;
}

/* True if an unprivileged user made the mount namespace of this mount. In such a namespace any file
 * can get any name (mount --bind in a user namespace), so a name proves nothing. */
static __always_inline bool names_are_untrusted(void *mount)
{
	void *mounts = 0, *user = 0;

	READ(mounts, mount, OFF_mount__mnt_ns);
	READ(user, mounts, OFF_mnt_namespace__user_ns);
	return is_below_first(user);
}

/* Fills in the fields that no helper provides; returns the task's group_info. */
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

/* Fills `who`; returns the task's group_info. */
static __always_inline void *identify(struct identity *who, u64 exe)
{
	who->pid = bpf_get_current_pid_tgid() >> 32;
	who->cgroup = bpf_get_current_cgroup_id();
	return read_identity(who, exe, (void *)bpf_get_current_task());
}

/* Like identify(), without helpers: sockops programs have none before Linux 6.10. */
static __always_inline void *identify_unaided(struct identity *who, u64 exe)
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
	return read_identity(who, exe, task);
}

/* Without a helper, because sockops programs call this too. */
static __always_inline void copy_comm(char comm[16])
{
	void *task = (void *)bpf_get_current_task();

	bpf_probe_read_kernel(comm, 16, task + OFF_task_struct__comm);
}
