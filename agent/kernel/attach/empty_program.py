"""A program that does nothing, to probe what a kernel supports. Standard library only."""

from __future__ import annotations

from agent.kernel.uapi import Op, instruction
from agent.system import libbpf


def load_empty_program(program_type: int, attach_type: int = 0, attach_btf_id: int = 0) -> int:
    """The fd of a program that does nothing and returns 1. Loading it probes what the kernel supports;
    running it measures the cost of a hook by itself."""
    # r0 = 1; exit (a tracing program must return 0)
    code = instruction(Op.SET, value=0 if attach_btf_id else 1) + instruction(Op.EXIT)
    return libbpf.load_program("licet_empty", program_type, code, attach_type, attach_btf_id)
