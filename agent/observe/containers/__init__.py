"""Names of containers, read from the state that runtimes store on disk. CRI is queried only if that state
has no name, with a short timeout (cri.py)."""

from agent.observe.containers.registry import Containers

__all__ = ["Containers"]
