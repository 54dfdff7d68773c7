"""The policy in force, and what it needs to know of the host, kept up with both."""
