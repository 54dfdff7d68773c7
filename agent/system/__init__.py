"""The kernel's interfaces that several rooms use. Standard library only."""
