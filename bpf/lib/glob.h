/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Globs with one star in one component, matched while a path is walked. A path has a sum over its
 * components, each weighted by its place. So leaving out one component is one subtraction, whatever
 * the depth. A glob is identified by the remaining sum and by the bytes before and after its star:
 * see shape_hash() in agent/policy/terms/hashing.py.
 *
 * A shape is one word of three fields, 8 bits each. The first is the place of the component with
 * the star, counted from the file name. The others are the number of bytes before the star, and
 * after it.
 */
#define SHAPE_PLACE(shape)  ((shape) & 0xff)
#define SHAPE_PREFIX(shape) ((shape) >> 8 & 0xff)
#define SHAPE_SUFFIX(shape) ((shape) >> 16 & 0xff)
#define NEXT_PLACE	    1

/* What a component adds to the sum. `place` encodes its place as a value that the verifier does not
 * know; it would walk each value of a known one. */
static __always_inline u64 term_of(struct hash_key *secret, u64 place, u64 component)
{
	return mix(secret, mix(secret, place, component), place);
}

/* Copies the bytes before and after the star to path->text. False: the component is too short. */
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

/* Collects the sets of all globs that match the path. */
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
		KEEP(found); /* Linux 6.1 does not see the bound of a copy */
		if (!entry || found >= SHAPES)
			continue;
		path->sets.set[found] = *entry;
		path->globs = found + 1;
	}
}
