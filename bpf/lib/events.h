/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Events to user space. A field of a process that cannot be read (name, arguments, groups) is
 * empty. */

/* Emits the path of the current executable, once for each path. */
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
	names.insert(&exe, blank); /* if this fails, the name is emitted again */
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

/* Fields of this attempt only: another attempt may be writing to the shared row. */
static __always_inline void fill_use_event(struct use_event *event, struct use_key *key,
					   struct flow *flow)
{
	event->header.type = EVENT_USE;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = flow->opened_ns;
	event->key = *key;
	event->consumer = flow->consumer;
	event->verdict = flow->verdict;
	event->groups = 0;
	event->args_bytes = 0;
	event->pad = 0;
}

static __always_inline void tell_local_use(struct use_key *key, struct use *use, struct flow *flow,
					   void *group_info)
{
	struct use_event *event = ring.ringbuf_reserve(sizeof(*event));

	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	fill_use_event(event, key, flow);
	event->source = (struct address){};
	event->source_port = 0;
	event->destination = flow->remote;
	event->port = flow->remote_port;
	copy_groups(event, group_info);
	copy_comm(event->comm);
	copy_args(event);
	ring.ringbuf_submit(event, 0);
	use->told = 1;
}

static __always_inline void tell_remote_use(struct use_key *key, struct use *use, struct flow *flow)
{
	struct use_event *event = bulk.ringbuf_reserve(sizeof(*event));

	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	fill_use_event(event, key, flow);
	event->source = flow->remote;
	event->source_port = flow->remote_port;
	event->destination = flow->local;
	event->port = flow->local_port;
	__builtin_memset(event->comm, 0, sizeof(event->comm));
	bulk.ringbuf_submit(event, 0);
	use->told = 1;
}

static __always_inline struct use_key key_of(struct verdict *verdict)
{
	struct use_key key = {
		.target = verdict->target,
		.decision = verdict->decision,
		.reason = verdict->reason,
		.origin = verdict->origin,
		.protocol = verdict->protocol,
		.enforced = verdict->enforced,
	};

	return key;
}

/* Counts this attempt in its row. True: an event has to be emitted. */
static __always_inline bool is_to_be_told(struct use *use, struct flow *flow)
{
	__sync_fetch_and_add(&use->attempts, 1);
	use->last_ns = flow->opened_ns;
	if (use->told)
		return false;
	use->first_ns = flow->opened_ns;
	use->first = flow->consumer;
	use->verdict = flow->verdict;
	return true;
}

/* Every attempt ends here or in record_remote(). The caller has filled in `flow`, except for what
 * only the verdict says. */
static __always_inline void record_local(struct flow *flow, void *group_info)
{
	struct use_key key = key_of(&flow->verdict);
	struct use *use;

	count_attempt(&flow->verdict);
	key.exe = flow->consumer.exe;
	key.cgroup = flow->consumer.cgroup;
	key.uid = flow->consumer.uid;
	use = use_for(&key, USE_LOCAL);
	if (!use || !is_to_be_told(use, flow))
		return;
	use->destination = flow->remote;
	use->port = flow->remote_port;
	copy_comm(use->comm);
	tell_local_use(&key, use, flow, group_info);
}

static __always_inline void record_remote(struct flow *flow)
{
	struct use_key key = key_of(&flow->verdict);
	struct use *use;

	count_attempt(&flow->verdict);
	key.source = flow->remote;
	keep_network(&key.source);
	use = use_for(&key, USE_REMOTE);
	if (!use || !is_to_be_told(use, flow))
		return;
	use->source = flow->remote;
	use->source_port = flow->remote_port;
	use->destination = flow->local;
	use->port = flow->local_port;
	tell_remote_use(&key, use, flow);
}

static __always_inline void tell_flow(u64 cookie, struct flow *flow, u32 type)
{
	struct settings *now = get_settings();
	struct flow_event *event;

	if (!now || !now->flow_events)
		return;
	event = bulk.ringbuf_reserve(sizeof(*event));
	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	event->header.type = type;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = bpf_ktime_get_boot_ns();
	event->cookie = cookie;
	event->flow = *flow;
	bulk.ringbuf_submit(event, 0);
}

/* Runs in the process that listens; for EVENT_BIND, in the process whose bind() was refused. */
static __always_inline void tell_listener(u32 type, u32 target, struct identity *owner, u64 cookie,
					  struct address *address, u16 protocol, u16 port, u64 now)
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
	event->protocol = protocol;
	event->target = target;
	copy_comm(event->comm);
	ring.ringbuf_submit(event, 0);
}
