"""The fast JAX port with its weights multiplied out once, at load: more memory, no scales in the sums (SPEC §3).

The programs are those of `jax_grouped`. Products are rounded as the specification says, and kept in float32: in bf16 a
CPU decoded about ten times slower. Where scales are wider than the compute dtype a matrix stays as stored.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from grok_conformance.candidates.jax_grouped.model import Model, Runtime
from grok_conformance.candidates.jax_grouped.parameters import Matrix, check_config, load_params
from grok_conformance.harness.contract import CandidateInfo, LanguageModelConfig, Weights

INFO = CandidateInfo(name="jax_grouped_dequantized", version=jax.__version__, tie_rule=True)


def load(config: LanguageModelConfig, weights: Weights, mesh: Mesh | None = None) -> Model:
    """Return a model with the stored weights (SPEC §2), multiplied out, placed on a mesh if one is given (SPEC §7).

    Raises Unsupported and ValueError as `jax_grouped` does.
    """
    check_config(config, mesh)
    params = load_params(config, weights, mesh)
    layers = tuple(
        {name: multiplied_out(matrix, config.fprop_dtype) for name, matrix in layer.items()} for layer in params.layers
    )
    return Model(Runtime(config, mesh), params._replace(layers=layers))


def multiplied_out(matrix: Matrix, fprop_dtype: str) -> Matrix:
    """Return a matrix [.., k, n] with its scales applied, rounded to the compute dtype, in float32 (SPEC §3, §9)."""
    weight, scales = matrix
    if scales is None or jnp.promote_types(scales.dtype, fprop_dtype) != fprop_dtype:
        return matrix
    groups = weight.reshape(*scales.shape[:-1], -1, weight.shape[-1])  # [.., G, k/G, n]
    product = groups.astype(fprop_dtype) * scales.astype(fprop_dtype)[..., None, :]
    return Matrix(product.reshape(weight.shape).astype(jnp.float32), None)
