"""Compiles C to programs, and caches them."""
