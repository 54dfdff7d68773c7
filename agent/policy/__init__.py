"""From policy files to the tables that decide, and the decision in Python."""
