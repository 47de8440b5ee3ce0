"""The whole model with about one layer's weights in memory, read from a checkpoint while it runs."""

from grok_conformance.reference.streaming.files import Stream, layer_bytes, open_stream
from grok_conformance.reference.streaming.model import Call, Stage, apply_with_taps, run

__all__ = ["Call", "Stage", "Stream", "apply_with_taps", "layer_bytes", "open_stream", "run"]
