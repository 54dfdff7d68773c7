/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Judges listeners on a declared port that did not bind to it by number: listen() without bind(),
 * bind() to port 0 within the socket's own range, or bind() to an address that was not this host's
 * yet. sockops, called by track_flows after it has noted the listener, in the process that listens.
 * It refuses nothing. While a stranger listens, the socket gate refuses consumers of this place
 * (socket_gate.c).
 */

/* The row that track_flows made for this listener; 0: there was no room. */
static __always_inline struct listener_owner *row_of(struct owner_key *place, u64 cookie)
{
	struct listener_owner *row = owners.lookup(place);

	if (!row || row->cookie != cookie)
		row = more_owners.lookup(place);
	return row && row->cookie == cookie ? row : 0;
}

/* The target that is served where this socket listens, or 0. 0 also if the target does not name its
 * owners, or the listener need not be judged. */
static __always_inline u32 target_to_judge(struct bpf_sock_ops *ctx, u32 slot)
{
	struct owner_key place = {};
	struct listener_owner *row;

	if (!read_place(ctx, &place))
		return 0;
	row = row_of(&place, bpf_get_socket_cookie(ctx));
	if (!row || row->flags & (LISTENER_ACTIVATED | LISTENER_BESIDE))
		return 0;
	return owned_target(slot, &place);
}

/* Moves a stranger's row out of owners: strangers must not take the room of owners. */
static __always_inline void move_stranger(struct owner_key *place, u64 cookie, u64 now)
{
	struct listener_owner *row = more_owners.lookup(place);
	u32 target;

	if (!row || row->cookie != cookie)
		return;
	target = row->stranger_to;
	if (more_strangers.update(place, row)) {
		note_crowded(target, now);
		lose(LOSS_STORAGE);
	}
	more_owners.delete(place);
}

static __always_inline void note_judgment(struct bpf_sock_ops *ctx, u32 stranger_to, u64 now)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct owner_key place = {};
	struct listener_owner *row;

	if (!read_place(ctx, &place) || !(row = row_of(&place, cookie)))
		return;
	if (!stranger_to) {
		row->flags |= LISTENER_OWNER;
		return;
	}
	row->stranger_to = stranger_to;
	want_close(ctx);
	move_stranger(&place, cookie, now);
}

int judge_listener(struct bpf_sock_ops *ctx)
{
	u64 now = bpf_ktime_get_boot_ns(), policy = policy_in_force();
	u32 slot = policy & 1, target = target_to_judge(ctx, slot), key = target | OWNERS_OF;
	struct settings *settings = get_settings();
	struct identity who = {};
	struct exe_name name = {};
	struct target_row *owned;
	struct tables tables;
	void *groups;

	if (!settings || !target || !open_tables(slot, &tables) ||
	    !(owned = find(tables.rows, &key)))
		return PASS;
	read_exe(settings, policy, now, &name);
	groups = identify_unaided(&who, name.path);
	who.netns = bpf_get_netns_cookie(ctx);
	/* the key is not a thread id: sockops programs cannot ask for one before Linux 6.10 */
	if (!is_no_owner(&tables, owned, target, SPARE_FLOW | bpf_get_socket_cookie(ctx), &who,
			 &name, groups, now))
		target = 0;
	note_judgment(ctx, target, now);
	return PASS;
}
