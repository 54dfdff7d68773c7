"""Builds every part of the daemon once, from the bottom up. No other package builds parts."""
