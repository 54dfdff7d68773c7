/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Reports which process accepted a flow of a target. Only one attach method is loaded: fexit or
 * kretprobe on inet_csk_accept (in the accepting process), else the first send or receive on the
 * socket.
 */

#ifdef ACCEPTOR
/* The row of this socket in unserved, which exists after its PASSIVE_ESTABLISHED callback. */
static __always_inline struct served *unserved_of(void *sk, u64 *cookie)
{
	/* the kernel assigns a cookie when one is first asked for: a socket without one, or with an
	 * unreadable one, has no flow here */
	*cookie = 0;
	READ(*cookie, sk, OFF_sock_common__skc_cookie);
	return *cookie ? unserved.lookup(cookie) : 0;
}

static __always_inline void name_current(struct settings *now, struct identity *who)
{
	struct exe_name name = {};

	read_exe(now, policy_in_force(), bpf_ktime_get_boot_ns(), &name);
	identify(who, name.path);
}

static __always_inline int note_acceptor(void *sk)
{
	struct settings *now = get_settings();
	struct identity who = {};
	struct served *served;
	u64 cookie;
	u16 port = 0;

	READ(port, sk, OFF_sock_common__skc_num);
	if (!now || !declared(port))
		return 0;
	served = unserved_of(sk, &cookie);
	if (!served)
		return 0;
	name_current(now, &who);
	count_acceptor(served, &who);
	unserved.delete(&cookie);
	return 0;
}
#endif

#ifdef ACCEPTOR_AT_RETURN
/*
 * The kernel queues a socket for accept() just before its PASSIVE_ESTABLISHED callback, so a
 * process that waits on another CPU may accept it first. Each side writes its own row before it
 * looks for the other's. So at least one of them finds both rows.
 */
static __always_inline int note_accepted(void *sk)
{
	struct settings *now = get_settings();
	struct early_acceptor early = {};
	struct identity who = {};
	struct served *served;
	u64 cookie, key = (u64)sk;
	u16 port = 0;

	if (!sk)
		return 0;
	READ(port, sk, OFF_sock_common__skc_num);
	if (!now || !declared(port))
		return 0;
	served = unserved_of(sk, &cookie);
	name_current(now, &early.who);
	if (!served) {
		early.at_ns = bpf_ktime_get_boot_ns();
		if (early_acceptors.update(&key, &early))
			lose(LOSS_STORAGE);
		served = unserved_of(sk, &cookie);
		if (!served || !take_early(key, &who))
			return 0;
	}
	count_acceptor(served, &early.who);
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
/* the return value follows the arguments, whose number differs between kernels */
int fexit_accept(u64 *ctx)
{
	return note_accepted((void *)ctx[ACCEPTOR_FEXIT]);
}
#endif

#ifdef ACCEPTOR_KRETPROBE
int kretprobe_accept(void *ctx)
{
	void *sk = 0;

	/* ctx is a struct pt_regs; ACCEPTOR_KRETPROBE is the offset of the register with the return
	 * value */
	if (bpf_probe_read_kernel(&sk, sizeof(sk), ctx + ACCEPTOR_KRETPROBE))
		return 0;
	return note_accepted(sk);
}
#endif
