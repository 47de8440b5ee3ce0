"""The whole model with about one layer's weights in memory, read from a checkpoint while it runs."""

from reference.streaming.files import Stream, open_stream
from reference.streaming.model import Call, Stage, apply_with_taps, run

__all__ = ["Call", "Stage", "Stream", "apply_with_taps", "open_stream", "run"]
