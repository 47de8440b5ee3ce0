"""Grok-1 in JAX for speed: tokens grouped by expert, int8 weights used as they are stored (SPEC §2-§5).

An int8 weight is exact in bf16 and in float32, so the scales multiply the sums instead of the weights (a permitted
alternative: the product of weight and scale is never rounded). Experts run tile by tile, so that the widened weights
stay in the processor's cache, and only on their own tokens. Runs on one device or on a mesh ("data", "model").
"""

from __future__ import annotations

import jax

from grok_conformance.candidates.jax_grouped.model import Model, Runtime
from grok_conformance.candidates.jax_grouped.parameters import check_config, load_params
from grok_conformance.harness.contract import CandidateInfo, LanguageModelConfig, Weights

__all__ = ["INFO", "load"]

INFO = CandidateInfo(name="jax_grouped", version=jax.__version__, tie_rule=True)


def load(config: LanguageModelConfig, weights: Weights, mesh: jax.sharding.Mesh | None = None) -> Model:
    """Return a model with the stored weights (SPEC §2), placed on a mesh if one is given (SPEC §7).

    Raises Unsupported for a compute dtype other than float32 and bfloat16, ValueError for a mesh that does not divide
    the hidden width of an expert.
    """
    check_config(config, mesh)
    return Model(Runtime(config, mesh), load_params(config, weights, mesh))
