"""Reading the host: processes, cgroups, containers, sockets, addresses. Nothing is changed."""
