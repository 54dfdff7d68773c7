"""What stands in the maps and the rings, as Python reads and writes it."""
