"""The rows of the graph: what each operation of Grok-1 computes in float64, and how far rounding may move it."""
