"""The rows of the graph: what every operation of Grok-1 computes, in float64, and how far honest rounding may move it."""
