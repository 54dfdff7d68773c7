"""Names of containers, read from the state that runtimes store on disk. Only if that has no name, CRI is
queried with a short timeout (cri.py)."""

from agent.observe.containers.registry import Containers

__all__ = ["Containers"]
