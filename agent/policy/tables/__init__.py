"""A policy and a host, compiled to the tables that the kernel judges by."""
