"""What leaves the agent: metrics, events, HTTP. `view.py` is the port that the daemon fills."""
