"""Outputs of the perception node: the table of topics, and their messages."""
