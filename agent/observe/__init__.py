"""Reads the host: processes, cgroups, containers, sockets, addresses. It changes nothing."""
