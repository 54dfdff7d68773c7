"""From `licet run` to a running loop: locks, trusted places, the loader, an upgrade."""
