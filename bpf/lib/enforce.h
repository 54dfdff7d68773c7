/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Whether a denied attempt is refused. An observer only records this; a gate does it. */

static __always_inline bool is_failsafe(u16 port)
{
	u32 index = port >> 6;
	u64 *word = failsafe.lookup(&index);

	return word && (*word >> (port & 63) & 1);
}

static __always_inline bool has_gate(u32 gate)
{
	struct settings *now = get_settings();

	return now && (now->gates >> gate & 1);
}

/* True if `gate` refuses this attempt; sets verdict->enforced then. */
static __always_inline bool refuses(struct target_row *row, struct verdict *verdict, u32 gate,
				    u16 port, u64 now)
{
	if (verdict->decision != DENIED || !has_gate(gate) || is_failsafe(port) ||
	    !enforces(row, verdict->target, now))
		return false;
	verdict->enforced = true;
	return true;
}

/* Requests a refusal from the connect gate, which runs right after this program in the same thread.
 * `again`: the attempt was counted before. */
static __always_inline void ask_refusal(u64 cookie, u32 target, bool again)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct refusal refusal = {.cookie = cookie, .target = target, .again = again};

	if (refusals.update(&thread, &refusal))
		lose(LOSS_REFUSALS);
}

static __always_inline void count_refused(u32 target, u32 gate)
{
	u32 index = target * GATES + gate;
	u64 *count = refused.lookup(&index);

	if (count)
		__sync_fetch_and_add(count, 1);
}
