"""The running daemon: events from the kernel, a look at the host every few seconds, reloads."""
