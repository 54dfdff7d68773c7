"""licet: it is permitted. Every connect() and accept() on a host, judged against the license policy."""

__version__ = "0.1.0"
