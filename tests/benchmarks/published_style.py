"""The yardstick: `jax_grouped` with the published algorithm for its experts, every token by every expert twice over.

The experts are `moe_slow_matmul1` and `moe_slow_matmul2` of the reference (SPEC §4.6): a copy of each token for each of
its experts, all copies multiplied by all experts, and a selection by a one-hot. All else is the fast port's, so that
what is measured is the grouping alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
from jax.sharding import Mesh

from grok_conformance.candidates.jax_grouped import load as load_grouped
from grok_conformance.candidates.jax_grouped import model
from grok_conformance.candidates.jax_grouped.parameters import Matrix, Params
from grok_conformance.harness.contract import CandidateInfo, LanguageModelConfig, Weights
from grok_conformance.reference import QuantizedWeight8bit
from grok_conformance.reference.experts import ExpertWeights
from grok_conformance.reference.slow_experts import run_experts_slowly

INFO = CandidateInfo(name="published_style", version=jax.__version__)


def every_token_by_every_expert(
    params: Params, x: jax.Array, index: jax.Array, names: Collection[str], mesh: Mesh | None
) -> dict[str, jax.Array]:
    """Return the values of the chosen experts [b, t, c, ..] by the reference's slow way, on one device."""
    del mesh
    weights = ExpertWeights(*(stored(params[f"moe/{name}/w"]) for name in ExpertWeights._fields))
    wanted = [name for name in ("expert_activation", "expert_up", "expert_hidden") if name in names]
    return run_experts_slowly(x, index, weights, (*wanted, "expert_output"))


def stored(matrix: Matrix) -> Any:
    """Return a matrix [e, k, n] of the fast port as the reference has it."""
    return matrix.weight if matrix.scales is None else QuantizedWeight8bit(matrix.weight, matrix.scales)


def load(config: LanguageModelConfig, weights: Weights) -> model.Model:
    """Return the fast port with its experts replaced, in this process."""
    model.compute_experts = every_token_by_every_expert  # type: ignore[attr-defined] # imported there, not exported
    return load_grouped(config, weights)
