"""Programs, maps and pins: all code that talks to the BPF side."""
