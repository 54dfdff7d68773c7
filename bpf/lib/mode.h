/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The mode of a target: its own override, else the host's, else the policy's. */

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
