/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where the current task runs: among the host's processes, in a container, in a user namespace.
 * "The host" is what the agent takes for it: all tasks in the pid namespace of the process 1 that
 * the agent sees. Everything is read from the task at the moment of the call.
 */

#define INIT_PIDNS  0xEFFFFFFCU /* PROC_PID_INIT_INO */
#define PID_LEVELS  33		/* of MAX_PID_NS_LEVEL plus the first */
#define ROOT_MOUNTS 8		/* how many stacked mounts above process 1's root are followed */
#define UPID_BYTES  16		/* size of an element of pid.numbers[] */

/* True if this mount hides the root directory of the mount that it is mounted on. */
static __always_inline bool covers_root(void *mount, void *on)
{
	void *place = 0, *root = 0;

	READ(place, mount, OFF_mount__mnt_mountpoint);
	READ(root, on, OFF_mount__mnt + OFF_vfsmount__mnt_root);
	return place == root;
}

static __always_inline u32 host_pidns(void)
{
	u32 zero = 0;
	struct settings *now = settings.lookup(&zero);

	return now && now->host_pidns ? now->host_pidns : INIT_PIDNS;
}

static __always_inline void *pidns_at(void *pid, u32 level)
{
	void *ns = 0;

	READ(ns, pid, OFF_pid__numbers + level * UPID_BYTES + OFF_upid__ns);
	return ns;
}

/* The host's pid namespace, if this task is in or below it, and the level of the first one below.
 * 0: the task is in neither. */
static __always_inline void *find_host(void *pid, u32 last, u32 *below)
{
	u32 wanted = host_pidns();

#pragma clang loop unroll(disable)
	for (u32 level = 0; level < PID_LEVELS; level++) {
		void *ns;
		u32 number = 0;

		KEEP(level);
		if (level > last)
			break;
		ns = pidns_at(pid, level);
		READ(number, ns, OFF_pid_namespace__ns + OFF_ns_common__inum);
		if (number == wanted) {
			*below = level + 1;
			return ns;
		}
	}
	return 0;
}

/* Only privileged processes can make a pid namespace that the first user namespace owns. */
static __always_inline bool is_of_root(void *pidns)
{
	void *user = 0;

	READ(user, pidns, OFF_pid_namespace__user_ns);
	return !is_below_first(user);
}

/* True if the task is in a pid namespace of root's runtime, or in one made inside of that. If it
 * cannot be read, the answer gives no right. */
static __always_inline bool in_pid_namespace(void)
{
	void *task = (void *)bpf_get_current_task(), *pid = 0;
	u32 last = 0, below = 0;

	if (READ(pid, task, OFF_task_struct__thread_pid) || READ(last, pid, OFF_pid__level)) {
		lose(LOSS_IDENTITY);
		return true;
	}
	if (!last && host_pidns() == INIT_PIDNS) /* the common case */
		return false;
	if (!find_host(pid, last, &below))
		return is_of_root(pidns_at(pid, last));
	return below <= last &&
	       (is_of_root(pidns_at(pid, below)) || is_of_root(pidns_at(pid, last)));
}

/* The mount at which the paths of process 1 begin. Mounts may be stacked on the root directory;
 * this is the lowest, up to the kernel's first mount. */
static __always_inline void *root_mount_of_host(void *task)
{
	void *pid = 0, *ns, *first = 0, *fs = 0, *mount = 0, *root;
	u32 last = 0, below = 0;

	READ(pid, task, OFF_task_struct__thread_pid);
	READ(last, pid, OFF_pid__level);
	ns = find_host(pid, last, &below);
	if (!ns)
		return 0;
	READ(first, ns, OFF_pid_namespace__child_reaper);
	READ(fs, first, OFF_task_struct__fs);
	if (READ(mount, fs, OFF_fs_struct__root + OFF_path__mnt) || !mount)
		return 0;
	mount -= OFF_mount__mnt;
	root = mount;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < ROOT_MOUNTS; i++) {
		void *up = 0;

		KEEP(i);
		READ(up, mount, OFF_mount__mnt_parent);
		if (!up || up == mount)
			return root;
		if (!covers_root(mount, up))
			root = up;
		mount = up;
	}
	return 0;
}

/* True if paths that end at this mount name files of the host. Another mount namespace has a mount
 * object of its own, but the mounted file system is the same. */
static __always_inline bool is_hosts_root(void *mount)
{
	void *hosts = root_mount_of_host((void *)bpf_get_current_task());
	void *super = 0, *dentry = 0, *hosts_super = 0, *hosts_dentry = 0;

	READ(super, mount, OFF_mount__mnt + OFF_vfsmount__mnt_sb);
	READ(dentry, mount, OFF_mount__mnt + OFF_vfsmount__mnt_root);
	READ(hosts_super, hosts, OFF_mount__mnt + OFF_vfsmount__mnt_sb);
	READ(hosts_dentry, hosts, OFF_mount__mnt + OFF_vfsmount__mnt_root);
	if (!hosts_super || !hosts_dentry)
		lose(LOSS_IDENTITY);
	return super && dentry && super == hosts_super && dentry == hosts_dentry;
}

/* The user namespace of the current task; 0: the first one, the host's. */
static __always_inline void *user_namespace(void)
{
	void *task = (void *)bpf_get_current_task(), *cred = 0, *user = 0;
	u32 level = 0;

	READ(cred, task, OFF_task_struct__cred);
	if (READ(user, cred, OFF_cred__user_ns) || READ(level, user, OFF_user_namespace__level))
		lose(LOSS_IDENTITY);
	return level ? user : 0;
}
