"""The published checkpoint: read safely on any mesh, written, converted and synthesised (SPEC §8)."""

from grok_conformance.reference.checkpoint.pickles import CheckpointError
from grok_conformance.reference.checkpoint.reading import load, load_language_model, load_layer
from grok_conformance.reference.checkpoint.writing import save

__all__ = ["CheckpointError", "load", "load_language_model", "load_layer", "save"]
