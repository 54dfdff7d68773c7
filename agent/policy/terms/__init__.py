"""The meaning of the terms in a policy: paths, cgroups, networks, ports."""
