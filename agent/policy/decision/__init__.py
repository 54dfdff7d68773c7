"""Tables and a question: the answer, and why."""
