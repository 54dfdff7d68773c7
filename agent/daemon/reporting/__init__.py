"""Output of the daemon: events, lines for people, metrics and status."""
