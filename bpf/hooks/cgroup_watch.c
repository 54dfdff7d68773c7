/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup_mkdir tracepoint, in the process that creates the cgroup. Classifies the cgroup before any
 * process can run in it: named by the policy, the top of a container, or to be classified by user
 * space. A cgroup cannot be renamed, so the answer stays true. connect() need not look up who owns
 * what.
 */

static __always_inline u32 member_flags(struct tables *tables, u64 id)
{
	struct member_key key = {.dimension = CGROUP, .value = id};
	u32 *value = find(tables->members, &key);

	return value ? *value & MEMBER_FLAGS : 0;
}

static __always_inline bool is_host(struct tables *tables, u64 id)
{
	struct member_key key = {.dimension = CGROUP_HOST, .value = id};

	return find(tables->members, &key);
}

/* Adds to birth->above what the directory `node`, above the new cgroup, says about it. */
static __always_inline void note_above(struct tables *tables, struct birth *birth, void *node)
{
	u32 flags = member_flags(tables, birth->at_id);

	if (!is_roots(node))
		birth->above |= ABOVE_OTHERS;
	if (birth->at_host & 1) {
		birth->above |= ABOVE_HOST;
		return;
	}
	if (birth->at_kind & KIND_TOP || flags & MEMBER_CONTAINER)
		birth->above |= ABOVE_TOP;
	if (birth->at_kind & KIND_UNIT)
		birth->above |= ABOVE_UNIT;
	if (flags & MEMBER_UNSURE)
		birth->above |= ABOVE_UNSURE;
}

/* True if the agent sees all cgroups. In a container with a cgroup namespace it sees only a
 * part. */
static __always_inline bool sees_all(struct tables *tables)
{
	return !is_host(tables, 0);
}

/* Walks from the new cgroup up to the root of all cgroups. False: nested too deeply to tell. */
static __always_inline bool look_above(struct tables *tables, void *node, struct birth *birth)
{
	READ(birth->id, node, OFF_kernfs_node__id);
	read_name(&birth->at, node, birth->text);
	birth->name = birth->at;
	birth->above = birth->skip = birth->at_host = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < CGROUP_LEVELS; i++) {
		void *up = 0;

		KEEP(i);
		FORGET();
		if (READ(up, node, OFF_PARENT))
			return false;
		read_name(&birth->parent, up, birth->text);
		READ(birth->parent_id, up, OFF_kernfs_node__id);
		if (up ? is_host(tables, birth->parent_id) : sees_all(tables))
			birth->at_host |= up ? 2 : 1;
		FORGET();
		if (birth->at_host &
		    2) /* outside the agent's view of its host, the name means nothing here */
			birth->parent.head[0] = birth->parent.head[1] = 0;
		birth->at_kind = kind_of(&birth->at, &birth->parent);
		FORGET();
		if (!i)
			birth->kind = birth->at_kind;
		else if (!(birth->above & ABOVE_HOST))
			note_above(tables, birth, node);
		FORGET();
		if (birth->above & ABOVE_HOST)
			birth->skip += birth->at.bytes + (up ? 1 : 0);
		if (!up)
			return true;
		node = up;
		birth->at = birth->parent;
		birth->at_id = birth->parent_id;
		birth->at_host >>= 1;
	}
	return false;
}

static __always_inline u32 row_of(struct tables *tables, u32 dimension, u64 value)
{
	struct member_key key = {.dimension = dimension, .value = value};
	u32 *found = find(tables->members, &key);

	return found ? *found : 0;
}

/* The set of a unit, by its name or as an instance of a template; 0: the policy does not name
 * it. */
static __always_inline u32 row_of_unit(struct tables *tables, struct hash_key *secret,
				       struct cgroup_name *name, char *text)
{
	u32 row = row_of(tables, UNIT, mix_name(secret, (void *)name->text, name->bytes));
	u32 template;
	u64 suffix;

	if (row)
		return row;
	suffix = type_of_instance(name);
	template = suffix ? bytes_of_template(name, text) : 0;
	if (!template)
		return 0;
	return row_of(tables, UNIT_TEMPLATE,
		      mix(secret, mix_name(secret, (void *)name->text, template), suffix));
}

/* The value of members for a new cgroup; 0: none. path_hash 0: the path is too long to compare. */
static __always_inline u32 member_of_birth(struct tables *tables, struct hash_key *secret,
					   struct birth *birth, u64 path_hash)
{
	u32 row = 0, marks = birth->kind & KIND_TOP ? MEMBER_CONTAINER : 0;

	if (birth->above & (ABOVE_OTHERS | ABOVE_TOP))
		return path_hash ? row_of(tables, CGROUP_GIVEN, path_hash) : 0;
	if (path_hash)
		row = row_of(tables, CGROUP_PATH, path_hash);
	if (!row && birth->kind & (KIND_UNIT | KIND_SLICE) && !(birth->above & ABOVE_UNIT))
		row = row_of_unit(tables, secret, &birth->name, birth->text);
	if (row && birth->above & ABOVE_UNSURE)
		marks |= MEMBER_UNSURE_UNIT;
	if (!row && (marks || !birth->kind))
		row = row_of(tables, CGROUP_NEW, 0);
	if (!row && marks)
		row = SET_MISS + CGROUP;
	return row ? row | marks : 0;
}

/* path_bytes 0: the path is too long to compare. */
static __always_inline void join_policy(struct settings *now, struct tables *tables,
					struct birth *birth, u32 path_bytes)
{
	struct member_key key = {.dimension = CGROUP, .value = birth->id};
	struct hash_key secret = hash_key(now->seed);
	u64 path_hash = path_bytes ? mix_name(&secret, birth->text, path_bytes) : 0;
	u32 value = member_of_birth(tables, &secret, birth, path_hash);

	if (value && tables->members && bpf_map_update_elem(tables->members, &key, &value, BPF_ANY))
		lose(LOSS_CGROUPS);
}

static __always_inline void tell_birth(struct birth *birth, void *path)
{
	struct cgroup_event *event = ring.ringbuf_reserve(sizeof(*event));
	int bytes;

	if (!event) {
		lose(LOSS_RING_FULL);
		return;
	}
	event->header.type = EVENT_CGROUP;
	event->header.bytes = sizeof(*event);
	event->header.time_ns = bpf_ktime_get_boot_ns();
	event->id = birth->id;
	event->by_root = !(birth->above & ABOVE_OTHERS);
	event->pad = 0;
	bytes = bpf_probe_read_kernel_str(event->path, sizeof(event->path), path);
	if (bytes < 0 || bytes == CGROUP_BYTES)
		event->path[0] = 0; /* truncated: reconciliation finds this one */
	ring.ringbuf_submit(event, 0);
}

int on_cgroup_mkdir(struct bpf_raw_tracepoint_args *ctx)
{
	void *cgroup = (void *)ctx->args[0], *path = (void *)ctx->args[1], *node = 0;
	u32 level = ~0, zero = 0;
	struct settings *now = get_settings();
	struct birth *birth = births.lookup(&zero);
	struct tables tables = {};
	int bytes;

	if (!is_cgroup2(cgroup) || !now || !birth)
		return 0;
	READ(node, cgroup, OFF_cgroup__kn);
	READ(level, cgroup, OFF_cgroup__level);
	open_tables(slot_in_force(),
		    &tables); /* fails without a policy; then lookups find nothing */
	if (!look_above(&tables, node, birth)) {
		tell_birth(birth, 0);
		return 0;
	}
	FORGET();
	if (!(birth->above & ABOVE_HOST))
		return 0; /* of a container that is not the agent's own */
	path += birth->skip;
	bytes = bpf_probe_read_kernel_str(birth->text, sizeof(birth->text), path);
	if (bytes < 1 || bytes == CGROUP_BYTES) {
		if (!(birth->above & ABOVE_OTHERS))
			lose(LOSS_CGROUPS);
		bytes = 1; /* truncated, so it names another cgroup */
	}
	if (level <= MAX_CGROUPS)
		join_policy(now, &tables, birth, bytes - 1);
	tell_birth(birth, path);
	return 0;
}
