"""Golden fixtures of models that are larger than memory: captured and judged layer by layer."""
