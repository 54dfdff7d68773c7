"""Reads and checks the text of a policy."""
