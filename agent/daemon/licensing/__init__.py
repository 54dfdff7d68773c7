"""Keeps license documents: reads the folders, has signatures verified, and remembers what was in force."""
