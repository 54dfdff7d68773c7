"""What leaves the daemon: events, lines for people, metrics, status, what the service manager is told."""
