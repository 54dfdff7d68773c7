/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Receive observer: cgroup/recvmsg4 and recvmsg6, in the process that asks whom a datagram came
 * from. What the look-up of a socket has noted of a peer (datagram_arrival.c) is no proof that he
 * has sent anything: an ICMP error makes the kernel look for a socket, and so does anybody's
 * sock_diag request, with whatever ends he likes. Here there is a datagram. Always allows.
 */

/* Loaded for each of these hooks. */
int observe_receive(struct bpf_sock_addr *ctx)
{
	struct sender_key asked = {.port = bpf_ntohs(ctx->user_port)};
	struct peer_key key = {};
	struct peer *peer;
	u64 now;

	if (ctx->protocol != IPPROTO_UDP || !declared(asked.port))
		return PASS;
	if (!read_sockaddr(ctx, &asked.remote))
		lose(LOSS_IDENTITY);
	key.target = answers_from(port_of(kernel_socket(ctx)), asked.port);
	key.address = asked.remote;
	now = bpf_ktime_get_boot_ns();
	peer = peers.lookup(&key);
	if (!peer || !is_within(peer->seen_ns, now, ATTEMPT_NS))
		return PASS;
	asked.cookie = bpf_get_socket_cookie(ctx);
	if (!senders.lookup(&asked)) /* else it answers this very socket, whose right is its own */
		peer->judged_ns = now;
	return PASS;
}
