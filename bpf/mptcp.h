/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * MPTCP's further subflows: a kernel worker connects them, for a connection whose first subflow was
 * judged. They are no attempts of their own, and go where the first one may go.
 */

/* The cookie of the first subflow of the connection that this one joins, or 0. `sk` is the kernel's
 * struct sock. */
static __always_inline u64 joined_by(void *sk)
{
	u64 cookie = 0;
#ifdef OFF_mptcp_sock__first /* a kernel with MPTCP */
	void *ops = 0, *subflow = 0, *connection = 0, *first = 0;
	u64 name = 0, mptcp;

	READ(ops, sk, OFF_inet_connection_sock__icsk_ulp_ops);
	if (!ops)
		return 0;
	__builtin_memcpy(&mptcp, "mptcp\0\0", sizeof(mptcp));
	READ(name, ops, OFF_tcp_ulp_ops__name);
	if (name != mptcp)
		return 0;
	READ(subflow, sk, OFF_inet_connection_sock__icsk_ulp_data);
	READ(connection, subflow, OFF_mptcp_subflow_context__conn);
	READ(first, connection, OFF_mptcp_sock__first);
	if (first && first != sk)
		READ(cookie, first, OFF_sock_common__skc_cookie);
#endif
	return cookie;
}
