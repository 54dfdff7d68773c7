/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * decide(): the only function that decides. agent/policy/decision/evaluate.py does the same in
 * Python; generated tests compare the two.
 */

/* 0, or the reason why the license's state or window denies now. */
static __always_inline u8 window_reason(struct target_row *row, struct candidate *candidate,
					u64 now)
{
	if (candidate->state)
		return candidate->state;
	if (now < candidate->from_ns && row->clock_synced)
		return NOT_YET_VALID;
	if (now >= candidate->ends_ns)
		return EXPIRED;
	return 0;
}

/* Grants by this candidate, unless an earlier one grants as much. True: no other can be better. */
static __always_inline bool grant(struct verdict *verdict, struct candidate *candidate, u64 now)
{
	if (now >= candidate->from_ns && now < candidate->expires_ns) {
		verdict->decision = ALLOWED;
		verdict->reason = LICENSED;
		verdict->grant = candidate->grant;
		return true;
	}
	if (verdict->decision == DENIED) {
		verdict->decision = GRACE;
		verdict->reason = now < candidate->from_ns ? CLOCK_UNSYNCED : EXPIRED;
		verdict->grant = candidate->grant;
	}
	return false;
}

/* True if the target allows, now, a consumer that could be licensed but is not known well
 * enough. */
static __always_inline bool lets_in_unresolved(struct target_row *row, u32 target, u64 now)
{
	if (row->unresolved == UNRESOLVED_ALLOW_UNLESS_ENFORCING)
		return !enforces(row, target, now);
	return row->unresolved == UNRESOLVED_ALLOW;
}

/*
 * Decides. The caller has set verdict->target.
 *
 * Of the candidates that include the consumer, the best outcome wins: allowed, then grace, then
 * denied with the reason that got furthest. Among equals, the first in policy order wins.
 *
 * Doubt decides only where nothing is certain. A candidate that certainly includes the consumer
 * and grants grace is a right that holds, whatever the unknown facts are: they could add a better
 * candidate, but take none away. So grace is not unresolved, and not denied, because of a
 * candidate that may allow. Nor is it told as allowed: that was not established. With a possible
 * exclusion no candidate is certain, so all that do not deny leave the attempt unresolved.
 */
static __always_inline void decide(struct tables *tables, struct target_row *row, struct set *who,
				   struct verdict *verdict, u64 now)
{
	struct set *certain =
		set_at(tables, SET_CERTAIN + (verdict->uncertain & DIMENSIONS_IN_DOUBT));
	struct set *excluded = set_at(tables, row->excluded);
	enum match found;

	verdict->decision = DENIED;
	verdict->reason = NO_LICENSE;
	if (!certain || !excluded) {
		lose(LOSS_NO_ROW);
		return;
	}
	found = match(who, excluded, certain, row->blocks);
	if (found == KNOWN) {
		verdict->reason = EXCLUDED;
		return;
	}
	if (!row->candidates)
		return;
	if (found == POSSIBLE)
		doubt(verdict, MAYBE_EXCLUDED);
	verdict->reason = UNLICENSED_PRINCIPAL;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < CANDIDATES; i++) {
		struct candidate *candidate;
		struct set *principal;
		u8 reason;

		KEEP(i);
		if (i >= row->candidates || i >= CANDIDATES)
			break;
		candidate = &row->candidate[i];
		principal = set_at(tables, candidate->principal);
		if (!principal)
			continue;
		found = match(who, principal, certain, row->blocks);
		if (found == NO_MATCH)
			continue;
		reason = window_reason(row, candidate, now);
		if (!reason && found == KNOWN && !is_in_doubt(verdict, MAYBE_EXCLUDED)) {
			if (grant(verdict, candidate, now))
				return;
		} else if (!reason) {
			doubt(verdict, MAYBE_GRANTED);
		} else if (found == KNOWN && verdict->decision == DENIED &&
			   reason > verdict->reason) {
			verdict->reason = reason;
			verdict->grant = candidate->grant;
		}
	}
	if (verdict->decision == DENIED && is_in_doubt(verdict, MAYBE_GRANTED)) {
		verdict->reason = UNRESOLVED;
		verdict->grant = 0;
		verdict->decision =
			lets_in_unresolved(row, verdict->target, now) ? ALLOWED : DENIED;
	}
}
