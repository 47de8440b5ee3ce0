"""The canonical JAX model on a mesh of one data and two model shards, on virtual CPU devices."""

from __future__ import annotations

import os

# Read by JAX when it is first used, hence before it is imported.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"

import jax

from grok_conformance import reference
from grok_conformance.candidates.reference import Model
from grok_conformance.candidates.reference import load as load_on
from grok_conformance.harness.contract import CandidateInfo, LanguageModelConfig, Weights

INFO = CandidateInfo(name="reference_1x2", version=jax.__version__, tie_rule=True)


def load(config: LanguageModelConfig, weights: Weights) -> Model:
    """Place the reference on the mesh (1, 2)."""
    return load_on(config, weights, reference.make_mesh((1, 2)))
