"""One candidate's evidence against the graph: operation by operation, end to end, and its choice of experts."""
