"""The policy in force and the host facts it needs, kept up to date with the files and the host."""
