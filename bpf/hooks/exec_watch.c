/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * sched_process_exec tracepoint, in the process that has just executed another program. Attached
 * only while the policy needs what only user space can find out: a path that a glob with more than
 * one star matches, or the addresses of a network namespace. Reports both before the program's
 * first connect().
 */

/* Reports a network namespace that user space has not scanned. A user's own namespace may have any
 * address and has no priority: it waits for the next scan. */
static __always_inline void tell_netns(u64 policy, u64 now)
{
	void *task = (void *)bpf_get_current_task(), *members = members_in(policy);
	void *proxy = 0, *net = 0;
	struct member_key key = {.dimension = NETNS};
	struct netns_event *event;

	READ(proxy, task, OFF_task_struct__nsproxy);
	READ(net, proxy, OFF_nsproxy__net_ns);
	READ(key.value, net, OFF_net__net_cookie);
	if (is_of_user(net) || !members || bpf_map_lookup_elem(members, &key))
		return;
	event = ring.ringbuf_reserve(sizeof(*event));
	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	event->header.type = EVENT_NETNS;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = now;
	event->netns = key.value;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->pad = 0;
	ring.ringbuf_submit(event, 0);
}

int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u64 policy = policy_in_force(), now = bpf_ktime_get_boot_ns();
	struct settings *settings = get_settings();
	struct exe_name name = {};

	if (!settings)
		return 0;
	read_exe(settings, policy, now, &name);
	tell_netns(policy, now);
	return 0;
}
