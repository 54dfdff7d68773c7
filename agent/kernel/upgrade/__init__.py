"""From the programs and maps of an earlier version to those of this one."""
