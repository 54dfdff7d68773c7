/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * UDP: finds the sender, and what counts as an attempt. UDP has no connections. A verdict is cached
 * for one second, so that not every datagram is judged. A counted attempt lasts as long as the next
 * datagram comes within ATTEMPT_NS.
 */

#define ATTEMPT_NS 30000000000ULL /* conntrack's timeout for a datagram without an answer */
#define JUDGED_NS  1000000000ULL  /* maximum age of a cached verdict */
/* How long the result for a socket's last datagram holds for the next one to the same place. */
#define LAST_NS 100000000ULL

enum datagram_rows { ROWS_SENDERS, ROWS_SENTS, ROWS_PEERS };

/* True also if `since` is ahead: the clock may have been read on another CPU. */
static __always_inline bool is_within(u64 since, u64 now, u64 most)
{
	return since && (s64)(now - since) < (s64)most;
}

/* True if an address of it means something else in each network namespace. Then its tuple includes
 * the namespace. */
static __always_inline bool differs_by_netns(struct tuple *tuple)
{
	return is_per_namespace(&tuple->local) || is_per_namespace(&tuple->remote);
}

static __always_inline void count_made(u32 which)
{
	u64 *count = datagram_rows.lookup(&which);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Identifies the current task: another program, credentials or process give another result. */
static __always_inline void read_task(struct sender *now)
{
	void *task = (void *)bpf_get_current_task();

	now->pid = bpf_get_current_pid_tgid() >> 32;
	READ(now->cred, task, OFF_task_struct__cred);
	READ(now->exec_id, task, OFF_task_struct__self_exec_id);
}

static __always_inline bool is_same_task(struct sender *one, struct sender *other)
{
	return one->pid == other->pid && one->cred == other->cred && one->exec_id == other->exec_id;
}

static __always_inline void put_sender(struct sender_key *key, struct sender *known,
				       struct sender *now)
{
	if (known)
		*known = *now;
	else if (!senders.update(key, now))
		count_made(ROWS_SENDERS);
	else
		lose(LOSS_TUPLES);
}

static __always_inline bool is_verdict(struct verdict *verdict, u8 decision, u8 reason, u8 enforced)
{
	return verdict->decision == decision && verdict->reason == reason &&
	       verdict->enforced == enforced;
}

static __always_inline void set_verdict(struct sender *now, struct verdict *verdict)
{
	now->target = verdict->target;
	now->decision = verdict->decision;
	now->reason = verdict->reason;
	now->enforced = verdict->enforced;
}

/* True if this is the socket's first datagram to the target, the first after a pause, or the first
 * with this verdict. */
static __always_inline bool is_new_attempt(u64 cookie, struct sender *now, struct verdict *verdict)
{
	struct sender_key key = {.cookie = cookie, .target = now->target};
	struct sender *known = senders.lookup(&key);
	bool is_new = !known || !is_within(known->seen_ns, now->seen_ns, ATTEMPT_NS) ||
		      !is_verdict(verdict, known->decision, known->reason, known->enforced);

	put_sender(&key, known, now);
	return is_new;
}

/* Stores the verdict on this socket and this destination. */
static __always_inline void remember_sender(struct sender_key *key, struct sender *now)
{
	now->judged_ns = now->seen_ns;
	put_sender(key, senders.lookup(key), now);
}

/* The target of a datagram that is delivered here, by its address and port, or 0. */
static __always_inline u32 target_of_datagram(u32 slot, u16 port, struct address *address,
					      u64 netns)
{
	u32 target = target_of(slot, IPPROTO_UDP, port, address, netns);

	return target ? target : target_delivered(slot, IPPROTO_UDP, port, netns);
}

/* True if the row of a sending socket counts in this network namespace. In a namespace of their own
 * a user can send from any address. What is sent there gives no right elsewhere. It removes no
 * attempt from the count, and makes no other sender's datagram an answer. */
static __always_inline bool speaks(struct sent *sent, u64 netns, u64 now)
{
	return is_within(sent->time_ns, now, ATTEMPT_NS) &&
	       (!sent->foreign || sent->netns == netns);
}

/* True if that network namespace delivers this target. Then a socket there that has an address of
 * the target really is where its address says. With IPV6_FREEBIND any process can send from any
 * IPv6 address. For IPv4 the kernel checks the source address of unprivileged processes. */
static __always_inline bool is_home(u32 slot, u16 port, u32 target, u64 netns)
{
	return target_delivered(slot, IPPROTO_UDP, port, netns) == target;
}

/* The network namespace of the socket of this host that sent from there to this port, or 0. The
 * socket's own address is unknown before its datagram has a route. */
static __always_inline u64 sender_to(u16 own_port, struct address *remote, u16 port, u64 netns,
				     u64 now)
{
	struct tuple there = {
		.netns = is_per_namespace(remote) ? netns : 0,
		.local = *remote,
		.local_port = port,
		.remote_port = own_port,
	};
	struct sent *sent = sents.lookup(&there);

	return sent && speaks(sent, netns, now) ? sent->netns : 0;
}

/* A value for peer_key.target: the address sent from this declared port to a port of this host. No
 * target has so large a number. */
static __always_inline u32 answers_from(u16 own_port, u16 port)
{
	return (u32)port << 16 | own_port;
}

/* True if a socket on this port has received a datagram from there. */
static __always_inline bool was_peer(u16 own_port, struct address *remote, u16 port, u64 now)
{
	struct peer_key key = {.target = answers_from(own_port, port), .address = *remote};
	struct peer *peer = peers.lookup(&key);

	return peer && is_within(peer->judged_ns, now, ATTEMPT_NS);
}

/* True if a datagram from this port to a target answers one that came from there. */
static __always_inline bool answers(u16 own_port, struct address *remote, u16 port, u32 slot,
				    u32 target, u64 netns, u64 now)
{
	u64 sender;

	if (was_peer(own_port, remote, port, now))
		return true;
	sender = sender_to(own_port, remote, port, netns, now);
	return sender && (is_mapped(remote) || is_home(slot, port, target, sender));
}

/* True if `gate` refuses this decision under the mode in force now. */
static __always_inline bool is_refused(u32 slot, u32 target, u8 decision, u32 gate, u16 port,
				       u64 now)
{
	struct verdict verdict = {.target = target, .decision = decision};
	struct target_row *row;

	if (decision != DENIED)
		return false;
	row = find(rows.lookup(&slot), &target);
	return row && refuses(row, &verdict, gate, port, now);
}
