"""Honest ways of real engines, put into the torch port, and wrong ones that look like them."""
