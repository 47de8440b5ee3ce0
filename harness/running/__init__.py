"""Candidates at work: job folders, answer folders, and the child processes between them."""
