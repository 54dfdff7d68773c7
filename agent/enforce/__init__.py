"""Changes the host outside BPF: attaches tc filters, closes sockets, sets run-time modes."""
