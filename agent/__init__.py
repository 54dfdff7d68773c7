"""licet ("it is permitted"): judges every connect() and accept() of a host against the license policy."""

__version__ = "0.1.0"
