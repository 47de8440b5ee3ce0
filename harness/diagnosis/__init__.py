"""Naming the fault behind a failing operation, and how well that can be done."""
