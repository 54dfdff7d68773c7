"""Exports data of the agent: metrics, events, HTTP. `view.py` is the interface that the daemon implements."""
