/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who the current task is. A read that fails leaves 0, and is counted where that could be taken for
 * an answer. Those of the current task and of its executable can't fail while it runs.
 */

#define RENAME_NS 1000000000ULL

struct walk {
	void *mount, *dentry;
	void *root; /* what the path begins at, once the walk has ended (see container.h) */
	void *name;
	long failed; /* not 0: a read did, and the end of the path would pass for the whole */
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

/* Is this mount in a namespace made by somebody without privilege? There, anybody can give any file
 * any name (mount --bind in a user namespace), so a name proves nothing. */
static __always_inline bool names_are_untrusted(void *mount)
{
	void *mounts = 0, *user = 0;

	READ(mounts, mount, OFF_mount__mnt_ns);
	READ(user, mounts, OFF_mnt_namespace__user_ns);
	return is_below_first(user);
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

/* No helper either: what calls this is part of sockops programs, too. */
static __always_inline void copy_comm(char comm[16])
{
	void *task = (void *)bpf_get_current_task();

	bpf_probe_read_kernel(comm, 16, task + OFF_task_struct__comm);
}
