"""The hooks licet uses on a connection's path, with empty bodies: what being called costs by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from agent.kernel.attach.empty_program import load_empty_program
from agent.kernel.loading.observers import CGROUP_PROGRAMS
from agent.system import libbpf
from tests.fixtures import cgroups


@contextmanager
def empty_hooks(cgroup: str) -> Iterator[dict[str, int]]:
    """Attached to a cgroup2 path inside the block; program fds by the name of what they stand for.

    The links are not pinned, so the kernel lets go of them with this process, whatever happens."""
    with ExitStack() as held:
        directory = os.open(cgroups.directory(cgroup), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held.callback(os.close, directory)
        programs = {}
        for _, kind, attach, name in CGROUP_PROGRAMS:
            programs[name] = load_empty_program(kind, attach)
            held.callback(os.close, programs[name])
            held.callback(os.close, libbpf.link_create(programs[name], directory, attach))
        yield programs
