"""Handles failures of a periodic task, or of one item among many."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from agent.errors import LicetError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """Log an error of the enclosed block and continue after it. The kernel programs keep judging
    meanwhile."""
    try:
        yield
    except (LicetError, OSError) as error:
        log.error("%s", error)
    except Exception:  # without this, later work would be skipped in silence
        log.exception("an error in licet itself: please report it")
