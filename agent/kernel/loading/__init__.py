"""Loads, attaches and pins programs, in a child process."""
