/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Counting and telling: counters are exact whatever happens to the events. */

static __always_inline struct settings *get_settings(void)
{
	u32 zero = 0;

	return settings.lookup(&zero);
}

static __always_inline void count_attempt(struct verdict *verdict)
{
	struct count_key key = {
		.target = verdict->target,
		.decision = verdict->decision,
		.reason = verdict->reason,
		.origin = verdict->origin,
		.protocol = verdict->protocol,
	};
	u64 *count = counts.lookup(&key), zero = 0;

	if (!count) {
		/* BPF_NOEXIST: another CPU may have made the row meanwhile, with counts in it */
		counts.insert(&key, &zero);
		count = counts.lookup(&key);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		lose(LOSS_COUNTS_FULL);
}

static __always_inline void count_opened(u32 target)
{
	struct flow_count *count = flow_counts.lookup(&target);

	if (count)
		__sync_fetch_and_add(&count->opened, 1);
}

static __always_inline void count_closed(u32 target)
{
	struct flow_count *count = flow_counts.lookup(&target);

	if (count)
		__sync_fetch_and_add(&count->closed, 1);
}

/* Sends the path of the current executable, once for each path. */
static __always_inline void tell_name(u64 exe)
{
	struct walk walk = {};
	struct name_event *event;
	struct stored_name *blank;
	void *task = (void *)bpf_get_current_task();
	u32 zero = 0;

	if (names.lookup(&exe))
		return;
	blank = blank_name.lookup(&zero);
	if (!blank || !start_walk(&walk))
		return;
	event = ring.ringbuf_reserve(sizeof(*event));
	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	event->header.type = EVENT_NAME;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = bpf_ktime_get_boot_ns();
	event->exe = exe;
	event->pid = 0;
	READ(event->pid, task, OFF_task_struct__tgid);
	event->components = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PATH_COMPONENTS; i++) {
		enum step step = walk_up(&walk);

		if (step == STEP_ROOT)
			break;
		event->components = i + 1;
		event->part[i][0] = 0;
		if (step == STEP_NAME)
			bpf_probe_read_kernel_str(event->part[i], COMPONENT_BYTES, walk.name);
	}
	ring.ringbuf_submit(event, 0);
	names.insert(&exe, blank);
}

static __always_inline void copy_args(struct use_event *event)
{
	void *task = (void *)bpf_get_current_task(), *mm = 0;
	u64 from = 0, to = 0, bytes;

	READ(mm, task, OFF_task_struct__mm);
	READ(from, mm, OFF_mm_struct__arg_start);
	READ(to, mm, OFF_mm_struct__arg_end);
	bytes = to - from;
	if (bytes > ARGS_BYTES - 1)
		bytes = ARGS_BYTES - 1;
	bytes &= ARGS_BYTES - 1;
	event->args_bytes = bpf_probe_read_user(event->args, bytes, (void *)from) ? 0 : bytes;
}

static __always_inline void copy_groups(struct use_event *event, void *group_info)
{
	u32 count = 0;

	READ(count, group_info, OFF_group_info__ngroups);
	event->groups = count < EVENT_GROUPS ? count : EVENT_GROUPS;
	bpf_probe_read_kernel(event->gids, sizeof(event->gids), group_info + OFF_group_info__gid);
}

static __always_inline void tell_use(struct use_key *key, struct use *use, void *group_info)
{
	struct use_event *event = ring.ringbuf_reserve(sizeof(*event));

	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	event->header.type = EVENT_USE;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = use->last_ns;
	event->key = *key;
	event->consumer = use->first;
	event->verdict = use->verdict;
	event->source = use->source;
	event->destination = use->destination;
	event->source_port = use->source_port;
	event->port = use->port;
	event->groups = 0;
	event->args_bytes = 0;
	event->pad = 0;
	__builtin_memcpy(event->comm, use->comm, sizeof(event->comm));
	if (key->origin != REMOTE) {
		copy_groups(event, group_info);
		copy_args(event);
	}
	ring.ringbuf_submit(event, 0);
	use->told = 1;
}

/* Both ways of an attempt end here: `flow` is filled in but for what only the verdict says. */
static __always_inline void record_attempt(struct flow *flow, void *group_info)
{
	struct verdict *verdict = &flow->verdict;
	struct use_key key = {
		.target = verdict->target,
		.decision = verdict->decision,
		.reason = verdict->reason,
		.origin = verdict->origin,
		.protocol = verdict->protocol,
		.enforced = verdict->enforced,
	};
	struct use *use, *blank;
	u32 zero = 0;

	count_attempt(verdict);
	if (verdict->origin == REMOTE) {
		key.source = flow->remote;
		keep_network(&key.source);
	} else {
		key.exe = flow->consumer.exe;
		key.cgroup = flow->consumer.cgroup;
		key.uid = flow->consumer.uid;
	}
	use = uses.lookup(&key);
	if (!use) {
		blank = blank_use.lookup(&zero);
		if (!blank)
			return;
		uses.insert(&key, blank);
		use = uses.lookup(&key);
		if (!use) {
			lose(LOSS_USES_FULL);
			return;
		}
	}
	__sync_fetch_and_add(&use->attempts, 1);
	use->last_ns = flow->opened_ns;
	if (use->told)
		return;
	use->first_ns = flow->opened_ns;
	use->first = flow->consumer;
	use->verdict = *verdict;
	if (verdict->origin == REMOTE) {
		use->source = flow->remote;
		use->source_port = flow->remote_port;
		use->destination = flow->local;
		use->port = flow->local_port;
	} else {
		use->destination = flow->remote;
		use->port = flow->remote_port;
		copy_comm(use->comm);
	}
	tell_use(&key, use, group_info);
}

static __always_inline void tell_flow(u64 cookie, struct flow *flow, u32 type)
{
	struct settings *now = get_settings();
	struct flow_event *event;

	if (!now || !now->flow_events)
		return;
	event = ring.ringbuf_reserve(sizeof(*event));
	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	event->header.type = type;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = bpf_ktime_get_boot_ns();
	event->cookie = cookie;
	event->flow = *flow;
	ring.ringbuf_submit(event, 0);
}

/* In the process that listens or, EVENT_BIND, was kept from it. */
static __always_inline void tell_listener(u32 type, struct identity *owner, u64 cookie,
					  struct address *address, u16 port, u64 now)
{
	struct listen_event *event = ring.ringbuf_reserve(sizeof(*event));

	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	event->header.type = type;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = now;
	event->owner = *owner;
	event->cookie = cookie;
	event->address = *address;
	event->port = port;
	event->pad[0] = event->pad[1] = event->pad[2] = 0;
	copy_comm(event->comm);
	ring.ringbuf_submit(event, 0);
}

static __always_inline void count_unprotected(u32 direction)
{
	u64 *count = unprotected.lookup(&direction);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void count_edge(struct edge_key *key)
{
	u64 *count = edges.lookup(key), one = 1;

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		edges.update(key, &one);
}
