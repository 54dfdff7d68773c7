/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup_rmdir tracepoint, in the process that removes the cgroup. Attached only while a service is
 * declared at a container. Reports the removal of containers' cgroups that only root could have
 * created. A container gives back its addresses together with its cgroup, and the next container
 * may get them at once.
 */
int on_cgroup_rmdir(struct bpf_raw_tracepoint_args *ctx)
{
	void *cgroup = (void *)ctx->args[0], *node = 0, *members;
	struct member_key key = {.dimension = CGROUP};
	u64 policy = policy_in_force();
	struct gone_event *event;
	u32 *member;

	members = members_in(policy);
	if (!is_cgroup2(cgroup) || !members)
		return 0;
	READ(node, cgroup, OFF_cgroup__kn);
	READ(key.value, node, OFF_kernfs_node__id);
	member = bpf_map_lookup_elem(members, &key);
	if (!member || !(*member & MEMBER_CONTAINER))
		return 0;
	event = ring.ringbuf_reserve(sizeof(*event));
	if (!event) {
		lose(LOSS_RING_FULL);
		return 0;
	}
	event->header.type = EVENT_GONE;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = bpf_ktime_get_boot_ns();
	event->id = key.value;
	ring.ringbuf_submit(event, 0);
	return 0;
}
