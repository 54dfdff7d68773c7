/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Whether a denied attempt is refused. An observer says so; only a gate does it. */

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

/* The override of modes[index], or OVERRIDE_NONE. */
static __always_inline u32 override_of(u32 index, u64 now)
{
	struct mode *mode = modes.lookup(&index);

	return mode && now < mode->until_ns ? mode->override : OVERRIDE_NONE;
}

static __always_inline bool enforces(struct target_row *row, u32 target, u64 now)
{
	u32 override = override_of(target, now);

	if (override == OVERRIDE_NONE)
		override = override_of(0, now);
	return override == OVERRIDE_NONE ? row->enforce : override == OVERRIDE_ENFORCE;
}

/* Sets verdict->enforced: is this attempt refused at `gate`? */
static __always_inline bool refuses(struct target_row *row, struct verdict *verdict, u32 gate,
				    u16 port, u64 now)
{
	if (verdict->decision != DENIED || !has_gate(gate) || is_failsafe(port) ||
	    !enforces(row, verdict->target, now))
		return false;
	verdict->enforced = true;
	return true;
}

static __always_inline void count_refused(u32 target, u32 gate)
{
	u32 index = target * GATES + gate;
	u64 *count = refused.lookup(&index);

	if (count)
		__sync_fetch_and_add(count, 1);
}
