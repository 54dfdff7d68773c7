"""Decides a question from the tables, and explains the decision."""
