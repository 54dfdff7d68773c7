/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The path of an executable, in a row of a map: its names, and the hash of each name. */

/* This thread's row to walk a path in; 0: no room. Names are collected first and hashed afterwards.
 * In one loop, the verifier would walk all ways to hash for each way to walk. */
static __always_inline struct path_walk *path_row(u64 thread)
{
	struct path_walk *blank;
	u32 zero = 0;

	blank = blank_walk.lookup(&zero);
	if (blank)
		path_walks.update(&thread, blank);
	return path_walks.lookup(&thread);
}

/* Collects the names from the leaf up, and whether the walk reached the root. */
static __always_inline void note_names(struct walk *walk, struct path_walk *path)
{
	enum step step = STEP_NAME;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PATH_COMPONENTS; i++) {
		u64 place = path->count;

		KEEP(i);
		KEEP(place); /* 64 bits wide: Linux 6.1 does not see the bound of a copy */
		step = walk_up(walk);
		if (step == STEP_ROOT)
			break;
		if (step == STEP_MOUNT || place >= PATH_COMPONENTS)
			continue;
		path->name[place] = (u64)walk->name;
		path->bytes[place] = walk->bytes;
		path->count = place + 1;
	}
	/* An ordinary root directory is itself mounted on the kernel's first one: one more step. */
	if (step != STEP_ROOT)
		step = walk_up(walk);
	if (step == STEP_MOUNT)
		step = walk_up(walk);
	path->is_cut = step != STEP_ROOT || walk->failed;
}

static __always_inline void clear_text(struct path_walk *path)
{
#pragma unroll
	for (u32 word = 0; word < NAME_BYTES / 8; word++)
		path->text[word] = 0;
}

/* mix_name() of path->text, without a branch. Words are mixed in up to the end of the text's last
 * chunk; words after it change nothing. */
static __always_inline u64 hash_text(struct hash_key *secret, struct path_walk *path, u64 bytes)
{
	u64 state = mix(secret, secret->seed, bytes);

#pragma unroll
	for (u32 chunk = 0; chunk < NAME_CHUNKS; chunk++) {
		u64 before = state, goes_on = chunk * sizeof(u64[CHUNK_WORDS]) - bytes;

#pragma unroll
		for (u32 word = 0; word < CHUNK_WORDS; word++) {
			state = mix(secret, state, path->text[chunk * CHUNK_WORDS + word]);
			asm volatile(""
				     : "+r"(state)
				     :
				     : "memory"); /* keeps the rounds in sequence */
		}
		asm volatile("%0 s>>= 63" : "+r"(goes_on)); /* all bits set, or none */
		state = before ^ ((before ^ state) & goes_on);
	}
	return state;
}

static __always_inline u64 hash_component(struct hash_key *secret, struct path_walk *path, u64 name,
					  u64 bytes)
{
	clear_text(path);
	bytes &= NAME_BYTES - 1;
	path->is_cut |= bpf_probe_read_kernel(path->text, bytes, (void *)name);
	return hash_text(secret, path, bytes);
}
