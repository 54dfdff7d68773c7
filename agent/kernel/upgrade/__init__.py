"""Replaces the programs and maps of an earlier version by those of this one."""
