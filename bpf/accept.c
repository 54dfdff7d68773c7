/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Which process accepted a flow of a target. Only one rung is loaded: fexit or kretprobe on
 * inet_csk_accept (in the process that accepts), else the first send or receive on the socket.
 */

#ifdef ACCEPTOR
static __always_inline int note_acceptor(void *sk)
{
	struct settings *now = get_settings();
	struct acceptor_key key = {};
	struct exe_name name = {};
	struct identity who = {};
	struct served *served;
	struct flow *flow;
	u64 cookie = 0, zero = 0, *count;
	u16 port = 0;

	READ(port, sk, OFF_sock_common__skc_num);
	if (!now || !declared(port))
		return 0;
	READ(cookie, sk, OFF_sock_common__skc_cookie);
	served = unserved.lookup(&cookie);
	if (!served)
		return 0;
	if (exe_of_current(now->seed, bpf_ktime_get_boot_ns(), &name))
		tell_name(name.path);
	identify(&who, name.path);
	key.start_ns = who.start_ns;
	key.exe = who.exe;
	key.pid = who.pid;
	key.target = served->target;
	acceptors.insert(&key, &zero);
	count = acceptors.lookup(&key);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		lose(LOSS_STORAGE);
	flow = flows.lookup(&served->flow_cookie);
	if (flow) {
		flow->acceptor_pid = who.pid;
		flow->acceptor_start_ns = who.start_ns;
		flow->acceptor_exe = who.exe;
	}
	unserved.delete(&cookie);
	return 0;
}
#endif

#ifdef ACCEPTOR_SOCKET_IO
int on_receive(struct bpf_raw_tracepoint_args *ctx)
{
	return note_acceptor((void *)ctx->args[0]);
}

int on_send(struct bpf_raw_tracepoint_args *ctx)
{
	return note_acceptor((void *)ctx->args[0]);
}
#endif

#ifdef ACCEPTOR_FEXIT
/* the return value stands behind the arguments, whose number differs between kernels */
int fexit_accept(u64 *ctx)
{
	return note_acceptor((void *)ctx[ACCEPTOR_FEXIT]);
}
#endif

#ifdef ACCEPTOR_KRETPROBE
int kretprobe_accept(void *ctx)
{
	void *sk = 0;

	/* struct pt_regs, at the register that holds a return value */
	if (bpf_probe_read_kernel(&sk, sizeof(sk), ctx + ACCEPTOR_KRETPROBE))
		return 0;
	return note_acceptor(sk);
}
#endif
