/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * For editors only (.clangd): what bcc declares before it compiles the programs. Map methods are
 * function pointers here, as in bcc's own header, which is part of the bcc library. The loader
 * supplies the offsets of kernel fields (OFF_...); an editor does not know them.
 */
#pragma once

#include <linux/types.h>
#include <linux/bpf.h>

#define __always_inline	       inline __attribute__((always_inline))
#define bpf_htons(x)	       __builtin_bswap16(x)
#define bpf_ntohs(x)	       __builtin_bswap16(x)
#define bpf_htonl(x)	       __builtin_bswap32(x)
#define bpf_ntohl(x)	       __builtin_bswap32(x)
#define bpf_pseudo_fd(kind, x) (x)

/* Helpers. Their arguments are not checked here. */
#define HELPER(name, ...) (*bpf_##name)()
extern u64 __BPF_FUNC_MAPPER(HELPER) (*bpf_no_helper)();

#define bpf_map_lookup_elem(...) ((void *)(bpf_map_lookup_elem)(__VA_ARGS__))
#define bpf_sk_fullsock(...)	 ((void *)(bpf_sk_fullsock)(__VA_ARGS__))

#define BPF_F_TABLE(TYPE, KEY, LEAF, NAME, ENTRIES, FLAGS)                                         \
	struct NAME##_table_t {                                                                    \
		KEY key;                                                                           \
		LEAF leaf;                                                                         \
		LEAF *(*lookup)(KEY *);                                                            \
		int (*update)(KEY *, LEAF *);                                                      \
		int (*insert)(KEY *, LEAF *);                                                      \
		int (*delete)(KEY *);                                                              \
		void (*call)(void *, int);                                                         \
		void *(*sk_storage_get)(void *, void *, int);                                      \
		int (*sk_storage_delete)(void *);                                                  \
		void *(*ringbuf_reserve)(u64);                                                     \
		void (*ringbuf_submit)(void *, u64);                                               \
		void (*ringbuf_discard)(void *, u64);                                              \
		u64 (*ringbuf_query)(u64);                                                         \
	};                                                                                         \
	extern struct NAME##_table_t NAME
#define BPF_TABLE(TYPE, KEY, LEAF, NAME, ENTRIES) BPF_F_TABLE(TYPE, KEY, LEAF, NAME, ENTRIES, 0)
#define BPF_ARRAY(NAME, LEAF, ENTRIES)		  BPF_TABLE("array", u32, LEAF, NAME, ENTRIES)
#define BPF_PERCPU_ARRAY(NAME, LEAF, ENTRIES) BPF_TABLE("percpu_array", u32, LEAF, NAME, ENTRIES)
#define BPF_PERCPU_HASH(NAME, KEY, LEAF, ENTRIES) BPF_TABLE("percpu_hash", KEY, LEAF, NAME, ENTRIES)
#define BPF_ARRAY_OF_MAPS(NAME, INNER, ENTRIES)                                                    \
	struct NAME##_table_t {                                                                    \
		void *(*lookup)(u32 *);                                                            \
	};                                                                                         \
	extern struct NAME##_table_t NAME
#define BPF_PROG_ARRAY(NAME, ENTRIES)	 BPF_TABLE("prog", u32, u32, NAME, ENTRIES)
#define BPF_RINGBUF_OUTPUT(NAME, PAGES)	 BPF_TABLE("ringbuf", u32, u32, NAME, PAGES)
#define BPF_SK_STORAGE(NAME, LEAF)	 BPF_TABLE("sk_storage", int, LEAF, NAME, 0)
#define BPF_ANNOTATE_KV_PAIR(NAME, K, L) extern int annotated_##NAME

/* The headers that a hook may use, in the order of agent/kernel/compile/source.py. */
#ifdef EDITOR_HOOK
#include "abi.h"
#include "maps.h"
#include "lib/read.h"
#include "lib/hash.h"
#include "lib/container.h"
#include "lib/identity.h"
#include "lib/path.h"
#include "lib/glob.h"
#include "lib/exe.h"
#include "lib/activation.h"
#include "lib/listener.h"
#include "lib/mode.h"
#include "lib/sets.h"
#include "lib/groups.h"
#include "lib/clauses.h"
#include "lib/decide.h"
#include "lib/target.h"
#include "lib/mptcp.h"
#include "lib/delivery.h"
#include "lib/uses.h"
#include "lib/counters.h"
#include "lib/events.h"
#include "lib/enforce.h"
#include "lib/judge_local.h"
#include "lib/judge_remote.h"
#include "lib/tuples.h"
#include "lib/flow_start.h"
#include "lib/listening.h"
#include "lib/cgroup.h"
#include "lib/owner.h"
#include "lib/misled.h"
#include "lib/lookup.h"
#include "lib/packet.h"
#include "lib/reset.h"
#include "lib/datagram.h"
#include "lib/datagram_ends.h"
#include "lib/arrival.h"
#include "lib/accept.h"
#endif
