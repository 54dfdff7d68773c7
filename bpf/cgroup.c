/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup_mkdir tracepoint, in the process that makes the cgroup. A restarted unit has a new cgroup
 * id: one whose path the policy names is a member before anything can run in it. Any other may be a
 * container's: where the policy speaks of containers, it is unsure until user space has looked.
 */

static __always_inline void join_policy(struct settings *now, u64 id, void *path, int bytes)
{
	struct member_key key = {.dimension = CGROUP_PATH};
	struct tables tables;
	u32 *set;

	if (bytes < 1 || !open_tables(slot_in_force(), &tables))
		return;
	key.value = mix_name(now->seed, path, bytes);
	set = find(tables.members, &key);
	if (!set) {
		key.dimension = CGROUP_NEW;
		key.value = 0;
		set = find(tables.members, &key);
	}
	if (!set)
		return;
	key.dimension = CGROUP;
	key.value = id;
	if (bpf_map_update_elem(tables.members, &key, set, BPF_ANY))
		lose(LOSS_NO_ROW);
}

int on_cgroup_mkdir(struct bpf_raw_tracepoint_args *ctx)
{
	void *cgroup = (void *)ctx->args[0], *path = (void *)ctx->args[1], *root = 0, *node = 0;
	struct settings *now = get_settings();
	char text[CGROUP_BYTES];
	struct cgroup_event *event;
	u32 hierarchy = 1;
	u64 id = 0;
	int bytes;

	READ(root, cgroup, OFF_cgroup__root);
	READ(hierarchy, root, OFF_cgroup_root__hierarchy_id);
	if (hierarchy || !now) /* 0 is cgroup2; ids of version 1 mean something else */
		return 0;
	READ(node, cgroup, OFF_cgroup__kn);
	READ(id, node, OFF_kernfs_node__id);
	bytes = bpf_probe_read_kernel_str(text, sizeof(text), path);
	if (bytes == CGROUP_BYTES)
		text[0] = 0; /* cut: another path; reconciliation will find it */
	else
		join_policy(now, id, path, bytes - 1);
	event = ring.ringbuf_reserve(sizeof(*event));
	if (!event) {
		lose(LOSS_RING_FULL);
		return 0;
	}
	event->header.type = EVENT_CGROUP;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = bpf_ktime_get_boot_ns();
	event->id = id;
	__builtin_memcpy(event->path, text, sizeof(text));
	ring.ringbuf_submit(event, 0);
	return 0;
}
