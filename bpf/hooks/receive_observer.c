/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Receive observer: cgroup/recvmsg4 and recvmsg6, in the process that asks for the source of a
 * datagram. Always allows.
 *
 * A socket lookup (datagram_arrival.c) does not prove that the peer sent anything. An ICMP error
 * also makes the kernel look up a socket, and so does any user's sock_diag request, with ends of
 * that user's choice. At this hook there is a datagram, so the note about the peer is confirmed
 * here.
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
	if (!senders.lookup(&asked)) /* else it answers this socket, which has a verdict */
		peer->judged_ns = now;
	return PASS;
}
