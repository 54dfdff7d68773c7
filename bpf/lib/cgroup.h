/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Classifies a cgroup by its name and by who could have created it. agent/policy/terms/cgroups.py
 * knows the same names; tests/kernel/test_cgroup_birth.py compares the two.
 */

/* kernfs_node.parent until Linux 6.15 */
#ifdef OFF_kernfs_node____parent
#define OFF_PARENT OFF_kernfs_node____parent
#else
#define OFF_PARENT OFF_kernfs_node__parent
#endif

#define CGROUP_ID_BYTES 64 /* hex digits, in the names that docker and most other runtimes give */

enum cgroup_kind {
	KIND_SLICE = 1,
	KIND_UNIT = 2, /* slices have no cgroup of their own; they only group units */
	KIND_TOP = 4,  /* the top cgroup of a container */
};

/* Facts about the directories above a new cgroup. */
enum above {
	ABOVE_OTHERS = 1, /* a user other than root can create cgroups in one of them */
	ABOVE_TOP = 2,
	ABOVE_UNIT = 4,
	ABOVE_UNSURE = 8, /* one may be a container's, and user space has not checked it yet */
	ABOVE_HOST = 16,  /* what the agent takes for its host */
};

/* Cgroup v1 uses other ids and directory names. A failed read leaves 0, which is the number of
 * cgroup2's hierarchy, so the reads are checked. */
static __always_inline bool is_cgroup2(void *cgroup)
{
	void *root = 0;
	u32 hierarchy = 0;

	return !READ(root, cgroup, OFF_cgroup__root) &&
	       !READ(hierarchy, root, OFF_cgroup_root__hierarchy_id) && !hierarchy;
}

/* Forces a value out of registers into map memory and back. The verifier does not track map memory,
 * so it walks the code that follows once, not once per possible value. */
#define FORGET() asm volatile("" : : : "memory")

#define BYTE_OF(text, i) ((u64)(unsigned char)(text)[i])

/* True if the name begins with `text`, a literal of at most 16 bytes. */
#define STARTS_WITH(name, literal) starts_with((name)->head, literal, sizeof(literal) - 1)
/* True if this is the whole name; its NUL is compared as well. */
#define IS_NAMED(name, literal) starts_with((name)->head, literal, sizeof(literal))

static __always_inline bool starts_with(u64 *head, const char *text, u32 bytes)
{
	u64 low = 0, high = 0, low_mask = 0, high_mask = 0;

#pragma unroll
	for (u32 i = 0; i < 8; i++) {
		if (i < bytes) {
			low |= BYTE_OF(text, i) << (8 * i);
			low_mask |= 0xffULL << (8 * i);
		}
		if (i + 8 < bytes) {
			high |= BYTE_OF(text, i + 8) << (8 * i);
			high_mask |= 0xffULL << (8 * i);
		}
	}
	return !(((head[0] ^ low) & low_mask) | ((head[1] ^ high) & high_mask));
}

static __always_inline void read_name(struct cgroup_name *name, void *node, char *text)
{
	int bytes;

	name->text = 0;
	name->head[0] = name->head[1] = name->head[2] = name->tail = 0;
	READ(name->text, node, OFF_kernfs_node__name);
	bytes = bpf_probe_read_kernel_str(text, CGROUP_BYTES, (void *)name->text);
	if (bytes < 2) {
		name->bytes = 0;
		return;
	}
	name->bytes = (bytes - 1) & 0xff;
	bpf_probe_read_kernel_str(name->head, sizeof(name->head), (void *)name->text);
	if (name->bytes >= sizeof(name->tail))
		READ(name->tail, name->text, name->bytes - sizeof(name->tail));
	else
		name->tail = name->head[0] << (8 * (8 - name->bytes));
}

#define ENDS_WITH(name, literal) ends_with((name)->tail, literal, sizeof(literal) - 1)

static __always_inline bool ends_with(u64 tail, const char *text, u32 bytes)
{
	u64 word = 0;

#pragma unroll
	for (u32 i = 0; i < 8; i++)
		if (i < bytes)
			word |= BYTE_OF(text, i) << (8 * i);
	return tail >> (8 * (8 - bytes)) == word;
}

#define EACH_BYTE(value) ((value) * 0x0101010101010101ULL)

/* Tests eight characters at once. After an offset is added, the highest bit of each byte tells
 * whether the byte reaches a limit. A loop over characters would be walked by the verifier for each
 * level. */
static __always_inline bool is_hex(void *text)
{
	u64 words[CGROUP_ID_BYTES / 8], wrong = 0;

	if (bpf_probe_read_kernel(words, sizeof(words), text))
		return false;
#pragma unroll
	for (u32 i = 0; i < CGROUP_ID_BYTES / 8; i++) {
		u64 word = words[i];
		u64 digit = (word + EACH_BYTE(0x80 - '0')) & ~(word + EACH_BYTE(0x7f - '9'));
		u64 letter = (word + EACH_BYTE(0x80 - 'a')) & ~(word + EACH_BYTE(0x7f - 'f'));

		wrong |= word | ~(digit | letter);
	}
	return !(wrong & EACH_BYTE(0x80));
}

/* RUNTIME-ID, RUNTIME-ID.scope, …:RUNTIME:ID, or the id alone. */
static __always_inline bool has_container_id(struct cgroup_name *name, struct cgroup_name *parent)
{
	u32 bytes = name->bytes - (ENDS_WITH(name, ".scope") ? sizeof(".scope") - 1 : 0), before;
	char last = 0;

	if (bytes < CGROUP_ID_BYTES || bytes > CGROUP_BYTES)
		return false;
	before = bytes - CGROUP_ID_BYTES;
	if (!is_hex((void *)name->text + before))
		return false;
	if (!before) /* podman names a pod like a container */
		return !IS_NAMED(parent, "libpod_parent");
	READ(last, name->text, before - 1);
	if (last == ':')
		return true;
	return (before == 7 && (STARTS_WITH(name, "docker-") || STARTS_WITH(name, "libpod-"))) ||
	       (before == 5 && STARTS_WITH(name, "crio-")) ||
	       (before == 8 && STARTS_WITH(name, "nerdctl-")) ||
	       (before == 15 &&
		(STARTS_WITH(name, "cri-containerd-") || STARTS_WITH(name, "libpod-payload-")));
}

/* Scopes of systemd-machined, except virtual machines: their processes belong to the host. */
static __always_inline bool is_machine(struct cgroup_name *name)
{
	return STARTS_WITH(name, "machine-") && !STARTS_WITH(name, "machine-qemu\\x2d") &&
	       !STARTS_WITH(name, "machine-xen\\x2d") && !STARTS_WITH(name, "machine-ch\\x2d") &&
	       !STARTS_WITH(name, "machine-bhyve\\x2d");
}

static __always_inline bool is_scope_of_container(struct cgroup_name *name)
{
	bool has_id = name->bytes > sizeof("crun-.scope") - 1;

	return is_machine(name) ||
	       (has_id && (STARTS_WITH(name, "crun-") || STARTS_WITH(name, "runc-")));
}

/* Runtimes that put their containers into one parent directory. */
static __always_inline bool holds_containers(struct cgroup_name *parent)
{
	return IS_NAMED(parent, "lxc") || IS_NAMED(parent, "lxc.payload") ||
	       IS_NAMED(parent, "garden") || IS_NAMED(parent, "buildkit");
}

static __always_inline bool is_top(struct cgroup_name *name, struct cgroup_name *parent)
{
	if (STARTS_WITH(name, "lxc.payload."))
		return true;
	if (ENDS_WITH(name, ".service"))
		return STARTS_WITH(name, "systemd-nspawn@");
	if (ENDS_WITH(name, ".scope") && is_scope_of_container(name))
		return true;
	return has_container_id(name, parent);
}

static __always_inline u32 kind_of(struct cgroup_name *name, struct cgroup_name *parent)
{
	u32 kind = 0;

	if (holds_containers(parent)) /* whatever their names are */
		return KIND_TOP;
	if (ENDS_WITH(name, ".slice"))
		kind = KIND_SLICE;
	else if (ENDS_WITH(name, ".service") || ENDS_WITH(name, ".scope") ||
		 ENDS_WITH(name, ".socket") || ENDS_WITH(name, ".mount") ||
		 ENDS_WITH(name, ".swap"))
		kind = KIND_UNIT;
	return is_top(name, parent) ? kind | KIND_TOP : kind;
}

/* The suffix of the name, if units of this type can be template instances (systemd.unit(5)); else
 * 0. */
static __always_inline u64 type_of_instance(struct cgroup_name *name)
{
	if (ENDS_WITH(name, ".service"))
		return name->tail;
	return ENDS_WITH(name, ".socket") ? name->tail >> 8 : 0;
}

/* How many bytes of the name belong to the template, @ included; 0: it is not an instance. There is
 * no branch per character, and the count comes from what was read: the verifier would walk every
 * branch and every count. */
static __always_inline u32 bytes_of_template(struct cgroup_name *name, char *text)
{
	u32 suffix = ENDS_WITH(name, ".service") ? sizeof(".service") : sizeof(".socket");
	u64 none = 1, before = 0;

	bpf_probe_read_kernel_str(text, CGROUP_BYTES, (void *)name->text);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < CGROUP_BYTES; i++) {
		u64 other;

		KEEP(i);
		other = (unsigned char)text[i & (CGROUP_BYTES - 1)] ^ '@';
		other = -other;
		KEEP(other); /* else LLVM makes it a branch */
		none &= other >> 63;
		KEEP(none);
		before += none;
	}
	/* an instance name has at least one character */
	if (none || before + suffix >= name->bytes)
		return 0;
	return (before + 1) & (CGROUP_BYTES - 1);
}
