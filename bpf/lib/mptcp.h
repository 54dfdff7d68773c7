/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * MPTCP's further subflows. A kernel worker connects them for a connection whose first subflow was
 * judged. They are not attempts of their own, and may go where the first one may go.
 */

/* True if this is a further subflow. If that cannot be read, the subflow is judged on its own.
 * first_cookie: the cookie of the connection's first subflow. It is 0 if the first subflow has no
 * cookie: then it was not an attempt, because it goes to no service. `sk` is the kernel's struct
 * sock. */
static __always_inline bool joins(void *sk, u64 *first_cookie)
{
	*first_cookie = 0;
#ifdef OFF_mptcp_sock__first /* a kernel with MPTCP */
	void *ops = 0, *subflow = 0, *connection = 0, *first = 0;
	u64 name = 0, mptcp;

	READ(ops, sk, OFF_inet_connection_sock__icsk_ulp_ops);
	if (!ops)
		return false;
	__builtin_memcpy(&mptcp, "mptcp\0\0", sizeof(mptcp));
	READ(name, ops, OFF_tcp_ulp_ops__name);
	if (name != mptcp)
		return false;
	READ(subflow, sk, OFF_inet_connection_sock__icsk_ulp_data);
	READ(connection, subflow, OFF_mptcp_subflow_context__conn);
	READ(first, connection, OFF_mptcp_sock__first);
	return first && first != sk && !READ(*first_cookie, first, OFF_sock_common__skc_cookie);
#else
	return false;
#endif
}
