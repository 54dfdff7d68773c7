/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Listening sockets, as struct sock describes them, and the rows of owners about them. */

#define TCP_LISTEN 10 /* linux/tcp_states.h */

static __always_inline bool is_v6only(void *sk)
{
	u8 bits = 0;

	READ(bits, sk, OFF_sock_common__skc_ipv6only);
	return bits >> BIT_sock_common__skc_ipv6only & 1;
}

static __always_inline bool has_reuse_port(void *sk)
{
	u8 bits = 0;

	READ(bits, sk, OFF_sock_common__skc_reuseport);
	return bits >> BIT_sock_common__skc_reuseport & 1;
}

static __always_inline u64 cookie_of(u64 sk)
{
	u64 cookie = 0;

	READ(cookie, sk, OFF_sock_common__skc_cookie);
	return cookie;
}

/* True if this socket has not been closed since it was noted. The kernel reuses a socket's memory
 * for other sockets, each with a cookie of its own. False also for a row made by user space. */
static __always_inline bool still_listens(struct listener_owner *noted)
{
	void *sk = (void *)noted->socket;
	u8 state = 0;

	return sk && cookie_of((u64)sk) == noted->cookie &&
	       !READ(state, sk, OFF_sock_common__skc_state) && state == TCP_LISTEN;
}

/* Another socket that listens at the same place (SO_REUSEPORT), or 0. */
static __always_inline u64 other_of_group(void *sk)
{
	void *group = 0;
	u64 first = 0, second = 0;
	u16 sockets = 0;

	READ(group, sk, OFF_sock__sk_reuseport_cb);
	if (!group)
		return 0;
	READ(sockets, group, OFF_sock_reuseport__num_socks);
	if (sockets < 2)
		return 0;
	READ(first, group, OFF_sock_reuseport__socks);
	READ(second, group, OFF_sock_reuseport__socks + sizeof(first));
	return first == (u64)sk ? second : first;
}
