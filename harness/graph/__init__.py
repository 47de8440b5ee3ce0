"""Grok-1 as a table of operations, each a float64 function, and the oracle that walks it."""
