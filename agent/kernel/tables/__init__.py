"""Reads and writes the rows of maps and the events of rings."""
