"""The conformance harness: judges ports of Grok-1 operation by operation."""
