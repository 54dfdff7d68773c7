/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Globs with one star in one component, decided while a path is walked. A path has a sum over its
 * components, each by its place; to leave one out takes one subtraction, whatever the depth. A glob
 * is known by what is left, and by the bytes before and behind its star: shape_hash() in
 * agent/policy/terms/hashing.py.
 *
 * A shape in one word: the place of the component that has the star, counted from the file name,
 * then how many bytes stand before the star and behind it, 8 bits each.
 */
#define SHAPE_PLACE(shape)  ((shape) & 0xff)
#define SHAPE_PREFIX(shape) ((shape) >> 8 & 0xff)
#define SHAPE_SUFFIX(shape) ((shape) >> 16 & 0xff)
#define NEXT_PLACE	    1

/* What a component adds to the sum. `place` is a number of its place, unknown to the verifier,
 * which would follow each value of a number. */
static __always_inline u64 term_of(struct hash_key *secret, u64 place, u64 component)
{
	return mix(secret, mix(secret, place, component), place);
}

/* Copies what stands before and behind the star to path->text; false: the component is too short.
 */
static __always_inline bool cut_out(struct path_walk *path, u64 place, u64 prefix, u64 suffix)
{
	u64 bytes = path->bytes[place];
	void *name = (void *)path->name[place];

	if (bytes < prefix + suffix)
		return false;
	clear_text(path);
	path->is_cut |= bpf_probe_read_kernel(path->text, prefix, name);
	path->is_cut |=
		bpf_probe_read_kernel((void *)path->text + prefix, suffix, name + bytes - suffix);
	return true;
}

/* Notes the sets of all globs that take the path. */
static __always_inline void match_globs(struct hash_key *secret, void *members,
					struct path_walk *path)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SHAPES; i++) {
		struct member_key key = {.dimension = EXE_SHAPE, .value = i};
		u64 shape, place, found;
		u32 *entry;

		KEEP(i);
		entry = bpf_map_lookup_elem(members, &key);
		if (!entry)
			break;
		shape = *entry;
		place = SHAPE_PLACE(shape);
		if (place >= path->count || place >= PATH_COMPONENTS ||
		    !cut_out(path, place, SHAPE_PREFIX(shape), SHAPE_SUFFIX(shape)))
			continue;
		key.dimension = EXE_GLOB;
		key.value = path->sum - path->term[place];
		key.value = mix(secret, key.value,
				hash_text(secret, path, SHAPE_PREFIX(shape) + SHAPE_SUFFIX(shape)));
		key.value = mix(secret, key.value, shape);
		entry = bpf_map_lookup_elem(members, &key);
		found = path->globs;
		KEEP(found); /* of a copy, Linux 6.1 would not see the bound */
		if (!entry || found >= SHAPES)
			continue;
		path->sets.set[found] = *entry;
		path->globs = found + 1;
	}
}
