"""What hangs on a hook: gates, the trampolines of network namespaces, others' programs."""
