/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The keyed hash of names. Without the key, no user can construct two names with the same hash.
 * Trial and error would take about 2^56 pairs, each tried by running a program.
 *
 * A product carries a difference upwards only, so a difference in the highest bits would come out
 * unchanged. Therefore the bytes are reversed between two products, and both factors are secret.
 */

struct hash_key {
	u64 seed;
	u64 first, second; /* both odd */
};

/* The finalizer of splitmix64: a factor reveals nothing of the seed. */
static __always_inline u64 factor_of(u64 seed)
{
	seed = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9ULL;
	seed = (seed ^ seed >> 27) * 0x94D049BB133111EBULL;
	return (seed ^ seed >> 31) | 1;
}

static __always_inline struct hash_key hash_key(u64 seed)
{
	struct hash_key key = {
		.seed = seed,
		.first = factor_of(seed + 0x9E3779B97F4A7C15ULL),
		.second = factor_of(seed + 0x3C6EF372FE94F82AULL),
	};

	return key;
}

static __always_inline u64 mix(struct hash_key *secret, u64 state, u64 word)
{
	return __builtin_bswap64((state ^ word) * secret->first) * secret->second;
}

/* Hashes a name in chunks padded with zeros: the same words as _mix_bytes() in
 * agent/policy/terms/hashing.py. */
static __always_inline u64 mix_name(struct hash_key *secret, void *name, u32 bytes)
{
	u64 state = mix(secret, secret->seed, bytes);

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < NAME_CHUNKS; i++) {
		u64 chunk[CHUNK_WORDS] = {}, done = i * sizeof(chunk), left = bytes - done;

		KEEP(i);
		if (done >= bytes)
			break;
		KEEP(left);
		if (left > sizeof(chunk))
			left = sizeof(chunk);
		bpf_probe_read_kernel(chunk, left, name + done); /* else zeros: no name has them */
#pragma unroll
		for (u32 word = 0; word < CHUNK_WORDS; word++)
			state = mix(secret, state, chunk[word]);
	}
	return state;
}
