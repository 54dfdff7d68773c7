"""Names of containers, read from what their runtimes keep on disk; over CRI, with a short wait, only where
that has none (cri.py)."""

from agent.observe.containers.registry import Containers

__all__ = ["Containers"]
