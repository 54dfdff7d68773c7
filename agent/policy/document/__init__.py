"""The text of a policy, read and checked."""
