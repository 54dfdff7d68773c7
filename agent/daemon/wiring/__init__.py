"""Every part of the daemon, built once and from the bottom up. Nothing else builds them."""
