"""Enforcement: modes, gates, the cutter of flows, and previews of a switch to enforce."""
