"""Candidates at work: job folders, answer folders, and the child processes between them."""

SERVED = "served"
"""What the model of an endpoint is called unless it is told."""
