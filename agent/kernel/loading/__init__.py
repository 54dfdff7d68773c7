"""Programs into the kernel: a child process loads, attaches and pins them."""
