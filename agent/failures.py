"""Failures of what is done again and again, or of one thing among many."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from agent.errors import LicetError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """They end what is inside, and nothing else: the kernel goes on judging meanwhile."""
    try:
        yield
    except (LicetError, OSError) as error:
        log.error("%s", error)
    except Exception:  # or what comes next would never be done, and nobody would know
        log.exception("a mistake in licet: please report it")
