"""The daemon while it runs: what the kernel tells, a look at the host every few seconds, reloads."""
