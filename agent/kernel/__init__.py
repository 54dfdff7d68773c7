"""Programs, maps and pins: everything that speaks to the BPF side."""
