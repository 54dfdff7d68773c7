"""What changes the host outside BPF: tc filters, sockets that are closed, run-time modes."""
