"""The container selector of a policy, and whether a container matches it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from agent.model import Container


@dataclass(frozen=True, slots=True, order=True)
class ContainerSelector:
    """Globs (fnmatch: * also matches a slash). An empty one sets no condition."""

    name: str = ""
    image: str = ""
    """The image as the runtime names it, or without docker.io/library/ in front."""
    pod: str = ""
    namespace: str = ""

    @property
    def any(self) -> bool:
        """True for `*`: any container, also one whose name is not known."""
        return self == ContainerSelector("*")

    def __str__(self) -> str:
        parts = ((key, getattr(self, key)) for key in ("name", "image", "pod", "namespace"))
        return " and ".join(f"{key} {value}" for key, value in parts if value)

    def takes(self, container: Container) -> bool:
        """True if a container, whose name is known, matches."""
        images = (container.image, _familiar(container.image))
        return (
            (not self.name or fnmatchcase(container.name, self.name))
            and (not self.image or any(fnmatchcase(image, self.image) for image in images))
            and (not self.pod or fnmatchcase(container.pod, self.pod))
            and (not self.namespace or fnmatchcase(container.namespace, self.namespace))
        )


def _familiar(image: str) -> str:
    """nginx:1.25 for docker.io/library/nginx:1.25, as docker itself shows it."""
    return image.removeprefix("docker.io/").removeprefix("library/")
