/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Sets of clauses, 64 bits a word, and the tables that hold them. Loops stay rolled: if unrolled,
 * LLVM turns the sets into scalars, and the 512-byte stack is too small.
 */

struct tables {
	void *rows, *members, *sets;
	u32 slot;
};

static __always_inline void *find(void *map, void *key)
{
	return map ? bpf_map_lookup_elem(map, key) : 0;
}

static __always_inline struct set *set_at(struct tables *tables, u32 id)
{
	return find(tables->sets, &id);
}

/* Loops over a set go by blocks of 4 words, as many as the row has in use. Fewer exits from the
 * loop than words keep the verifier's work small. False: the last block is done. */
static __always_inline bool in_use(u32 block, u32 blocks)
{
	KEEP(block);
	return block < blocks && block < SET_BLOCKS;
}

static __always_inline void narrow(struct set *set, struct set *by, u32 blocks)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; in_use(i, blocks); i++) {
		u64 *to = &set->w[i * 4], *from = &by->w[i * 4];

		to[0] &= from[0];
		to[1] &= from[1];
		to[2] &= from[2];
		to[3] &= from[3];
	}
}

static __always_inline void widen(struct set *set, struct set *by, u32 blocks)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; in_use(i, blocks); i++) {
		u64 *to = &set->w[i * 4], *from = &by->w[i * 4];

		to[0] |= from[0];
		to[1] |= from[1];
		to[2] |= from[2];
		to[3] |= from[3];
	}
}

/* Joins all words, without an early exit: inside a loop over groups, the verifier would walk each
 * exit. */
static __always_inline void widen_whole(struct set *set, struct set *by)
{
#pragma unroll
	for (u32 i = 0; i < SET_WORDS; i++) {
		set->w[i] |= by->w[i];
		asm volatile("" : : : "memory"); /* else LLVM holds the set in registers */
	}
}

enum match { NO_MATCH, POSSIBLE, KNOWN };

/* Tests whether any of these clauses holds. KNOWN: one certainly holds. POSSIBLE: one could hold,
 * if some fact were known. */
static __always_inline enum match match(struct set *who, struct set *clauses, struct set *certain,
					u32 blocks)
{
	u64 possible = 0, known = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; in_use(i, blocks); i++) {
		u64 *x = &who->w[i * 4], *y = &clauses->w[i * 4], *z = &certain->w[i * 4];

		possible |= (x[0] & y[0]) | (x[1] & y[1]) | (x[2] & y[2]) | (x[3] & y[3]);
		known |= (x[0] & y[0] & z[0]) | (x[1] & y[1] & z[1]) | (x[2] & y[2] & z[2]) |
			 (x[3] & y[3] & z[3]);
	}
	return known ? KNOWN : possible ? POSSIBLE : NO_MATCH;
}

static __always_inline struct set *member(struct tables *tables, u32 dimension, u64 value)
{
	struct member_key key = {.dimension = dimension, .value = value};
	u32 *id = find(tables->members, &key);

	return id ? set_at(tables, *id) : 0;
}

/* Like member(); adds the flags of the value to `flags`. */
static __always_inline struct set *cgroup_member(struct tables *tables, u64 value, u32 *flags)
{
	struct member_key key = {.dimension = CGROUP, .value = value};
	u32 *id = find(tables->members, &key);

	if (!id)
		return 0;
	*flags |= *id & MEMBER_FLAGS;
	return set_at(tables, *id & ~MEMBER_FLAGS);
}

static __always_inline bool speaks_of(struct target_row *row, u32 dimension)
{
	return row->dimensions >> dimension & 1;
}

/* Adds to verdict->uncertain in memory: if it were in a register, the verifier would walk every
 * combination. */
static __always_inline void doubt(struct verdict *verdict, u8 what)
{
	volatile u8 *uncertain = &verdict->uncertain;

	*uncertain |= what;
}

static __always_inline bool is_in_doubt(struct verdict *verdict, u8 what)
{
	volatile u8 *uncertain = &verdict->uncertain;

	return *uncertain & what;
}

static __always_inline void clear(struct set *set)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SET_WORDS; i++)
		set->w[i] = 0;
}
