"""From `licet run` to a loop that runs: locks, trusted places, the loader, an upgrade."""
