"""What happens on the host: uses, flows, listeners, and who they are of."""
