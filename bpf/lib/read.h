/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reads of kernel structs, at offsets that the loader takes from BTF (OFF_ + struct + __ + field).
 * A failed read leaves 0. */

/* Hides a value from LLVM's optimiser. Without this, LLVM folds both bounds of a loop into one
 * count that the verifier cannot follow (seen with LLVM 14 and, more often, 19). */
#define KEEP(i) asm volatile("" : "+r"(i))

#define READ(dst, base, off) bpf_probe_read_kernel(&(dst), sizeof(dst), (void *)(base) + (off))

/* True if this user namespace is not the first one, or cannot be read. */
static __always_inline bool is_below_first(void *user)
{
	u32 level = 1;

	return READ(level, user, OFF_user_namespace__level) || level;
}

/* A cookie has 64 bits, but bcc declares the helper with a 32-bit result. */
static u64 (*socket_cookie)(void *ctx) = (void *)BPF_FUNC_get_socket_cookie;
#define bpf_get_socket_cookie(ctx) socket_cookie(ctx)
