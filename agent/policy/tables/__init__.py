"""Compiles a policy and the facts of a host to the tables from which the kernel decides."""
