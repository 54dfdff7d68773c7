/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Socket activation: processes that bind and listen for a service that they start later. One is pid
 * 1. The other is the process that pid 1 makes for a .socket unit, in the unit's own cgroup
 * (sd-listen). systemd uses it where the unit has a namespace or filters of its own. Only the
 * system manager counts: `systemd --user` has the rights of its user.
 *
 * Everything is read from the task, because sockops programs, which call this too, have no helpers
 * for it.
 */

#define NAME_PART  64
#define NAME_PARTS 5 /* enough for 255 bytes, the longest name */

/* The last 7 bytes of a name and its NUL, as they stand in memory. */
static __always_inline u64 end_of_name(void *name)
{
	char part[NAME_PART];
	u64 end = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < NAME_PARTS; i++) {
		long bytes = bpf_probe_read_kernel_str(part, sizeof(part), name);

		KEEP(i);
		if (bytes <= 0)
			return 0;
		name += bytes - 1;
		if (bytes < NAME_PART)
			break;
	}
	READ(end, name, -7);
	return end;
}

static __always_inline u64 as_word(char name[8])
{
	u64 word;

	__builtin_memcpy(&word, name, sizeof(word));
	return word;
}

/* True if the task is root, and in no pid or user namespace that another user could have made. */
static __always_inline bool is_root_of_host(void *task)
{
	void *pid = 0, *cred = 0, *user = 0;
	u32 pid_level = 1, user_level = 1, uid = 1;
	int failed = 0;

	failed |= READ(pid, task, OFF_task_struct__thread_pid);
	failed |= READ(pid_level, pid, OFF_pid__level);
	failed |= READ(cred, task, OFF_task_struct__cred);
	failed |= READ(user, cred, OFF_cred__user_ns);
	failed |= READ(user_level, user, OFF_user_namespace__level);
	failed |= READ(uid, cred, OFF_cred__euid);
	return !failed && !pid_level && !user_level && !uid;
}

/* True if this directory is root's, so that no other user can make a directory in it. */
static __always_inline bool is_roots(void *node)
{
	void *attributes = 0;
	u32 uid = 0;
	u16 mode = 0;
	int failed = 0;

	failed |= READ(attributes, node, OFF_kernfs_node__iattr);
	failed |= READ(mode, node, OFF_kernfs_node__mode);
	if (attributes) /* null: no attribute was ever changed, so root owns it */
		failed |= READ(uid, attributes, OFF_kernfs_iattrs__ia_uid);
	return !(failed || uid || mode & 022);
}

/* Only root's slices may stand above the unit. A cgroup below another unit can be made by that
 * unit, also below user@0.service, which is root's. */
static __always_inline bool is_in_socket_unit(void *task)
{
	void *cgroup = 0, *above = 0, *node = 0, *name = 0;
	u32 level = 0;

	READ(cgroup, task, OFF_task_struct__cgroups);
	READ(cgroup, cgroup, OFF_css_set__dfl_cgrp);
	READ(node, cgroup, OFF_cgroup__kn);
	READ(name, node, OFF_kernfs_node__name);
	READ(level, cgroup, OFF_cgroup__level);
	if (end_of_name(name) != as_word(".socket"))
		return false;
#pragma clang loop unroll(disable)
	for (u32 i = 1; i <= MAX_CGROUPS; i++) {
		u64 end;

		KEEP(i);
		if (i > MAX_CGROUPS)
			break;
		if (READ(above, cgroup, OFF_cgroup__ancestors + i * sizeof(above)) ||
		    READ(node, above, OFF_cgroup__kn) || !is_roots(node))
			return false;
		if (i == level)
			return true;
		READ(name, node, OFF_kernfs_node__name);
		end = end_of_name(name);
		if (end == as_word("service") || end >> 8 == as_word(".scope") ||
		    end == as_word(".socket"))
			return false;
	}
	return false;
}

/* True if the current task may take a port for a service that it starts at the first connection. */
static __always_inline bool is_activator(void)
{
	void *task = (void *)bpf_get_current_task();
	u32 pid = 0; /* tgid, in the initial pid namespace */

	READ(pid, task, OFF_task_struct__tgid);
	return pid == 1 || (is_root_of_host(task) && is_in_socket_unit(task));
}
