"""Kernel interfaces that several packages use. Standard library only."""
