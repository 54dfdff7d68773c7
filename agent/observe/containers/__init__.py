"""Names of containers, read from what their runtimes keep on disk: no socket, no client, no waiting."""

from agent.observe.containers.registry import Containers

__all__ = ["Containers"]
