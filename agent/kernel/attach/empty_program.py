"""A program that does nothing: to find out what a kernel takes. Standard library only."""

from __future__ import annotations

from agent.kernel.uapi import Op, instruction
from agent.system import libbpf


def load_empty_program(program_type: int, attach_type: int = 0, attach_btf_id: int = 0) -> int:
    """The fd of a program that does nothing and returns 1: to find out by trying what a kernel takes, and
    to measure what a hook costs by itself."""
    # r0 = 1; exit (a tracing program must return 0)
    code = instruction(Op.SET, value=0 if attach_btf_id else 1) + instruction(Op.EXIT)
    return libbpf.load_program("licet_empty", program_type, code, attach_type, attach_btf_id)
