"""licet ("it is permitted"): judges every connect() and accept() of a host against the license policy."""

from datetime import UTC, datetime

__version__ = "0.1.0"
RELEASED = datetime(2026, 11, 28, tzinfo=UTC)
"""The date of the newest release in CHANGELOG.md: no host runs this version at an earlier time."""
