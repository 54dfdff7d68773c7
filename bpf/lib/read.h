/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How kernel structs are read: at offsets that the loader takes from BTF (OFF_ + struct + __ +
 * field). A read that fails leaves 0. */

/* Without this, LLVM folds both bounds of a loop into one count that the verifier can't follow
 * (seen with LLVM 14 and, more often, 19). */
#define KEEP(i) asm volatile("" : "+r"(i))

#define READ(dst, base, off) bpf_probe_read_kernel(&(dst), sizeof(dst), (void *)(base) + (off))

/* Is this user namespace not the first one? Also where that can't be read. */
static __always_inline bool is_below_first(void *user)
{
	u32 level = 1;

	return READ(level, user, OFF_user_namespace__level) || level;
}

/* A cookie has 64 bits; bcc declares the helper with 32. */
static u64 (*socket_cookie)(void *ctx) = (void *)BPF_FUNC_get_socket_cookie;
#define bpf_get_socket_cookie(ctx) socket_cookie(ctx)
