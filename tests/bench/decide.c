/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * For the benchmark only: joined after bpf/ and run by BPF_PROG_TEST_RUN. Does for one attempt what
 * the connect observer does between knowing who and writing down the verdict.
 */

struct question {
	struct identity who;
	struct exe_name exe;
	struct address address;
	u16 port, ports_more; /* a port from first_more on, drawn for each run, if ports_more is not
				 0 */
	u16 first_more, pad;
};
BPF_ARRAY(question, struct question, 1);

#define LICENSED_ANSWER 1
#define OTHER_ANSWER	0

int bench_empty(struct __sk_buff *skb)
{
	return LICENSED_ANSWER;
}

int bench_decide(struct __sk_buff *skb)
{
	u32 zero = 0, slot = slot_in_force(), target;
	struct question *asked = question.lookup(&zero);
	struct flow *flow = packet_flow.lookup(&zero);
	struct target_row *row;
	struct tables tables;
	u16 port;

	if (!asked || !flow)
		return OTHER_ANSWER;
	port = asked->port;
	if (asked->ports_more)
		port = asked->first_more + bpf_get_prandom_u32() % asked->ports_more;
	target = target_of(slot, IPPROTO_TCP, port, &asked->address, asked->who.netns);
	if (!open_tables(slot, &tables) || !(row = find(tables.rows, &target)))
		return OTHER_ANSWER;
	flow->verdict.uncertain = 0;
	local_set(&tables, row, &asked->who, &asked->exe, 0, true, &flow->verdict, &flow->clauses);
	decide(&tables, row, &flow->clauses, &flow->verdict, bpf_ktime_get_boot_ns());
	return flow->verdict.reason == LICENSED ? LICENSED_ANSWER : OTHER_ANSWER;
}
