"""Programs attached to hooks: gates, trampolines of network namespaces, programs of other tools."""
