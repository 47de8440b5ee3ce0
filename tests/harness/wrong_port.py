"""The oracle as a port with one fault: 1 + γ for γ in one norm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from grok_conformance.candidates import numpy_float64
from grok_conformance.harness.contract import LanguageModelConfig, Weights

CASE = "unequal/prefill/padded_batch.float32"
SCALE = "transformer/decoder_layer_0/rms_norm_2/scale"
"""Of `moe.norm` in layer 0."""


def load_wrong(config: LanguageModelConfig, weights: Weights) -> Any:
    """Load the oracle with 1 + γ for γ in one norm, a fault of ports of other models."""
    return numpy_float64.load(config, {**weights, SCALE: 1 + weights[SCALE]})


WRONG = SimpleNamespace(INFO=numpy_float64.INFO, load=load_wrong)

SOURCE = """
from grok_conformance.candidates.numpy_float64 import INFO, load as load_right

def load(config, weights):
    name = "transformer/decoder_layer_0/rms_norm_2/scale"
    return load_right(config, {**weights, name: 1 + weights[name]})
"""
"""The same as the file of a candidate."""
