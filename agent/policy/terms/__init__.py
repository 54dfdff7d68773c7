"""What a word of a policy means: paths, cgroups, networks, ports."""
