"""Stored weights as device arrays, and where they lie on a mesh (SPEC §2, §3, §7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grok_conformance.harness.contract import Array, LanguageModelConfig, Unsupported, Weights

FPROP_DTYPES = ("float32", "bfloat16")
COLUMN_PARALLEL = ("query/w", "key/w", "value/w", "linear_v/w", "linear/w")
ROW_PARALLEL = ("multi_head_attention/linear/w", "linear_1/w")


class Matrix(NamedTuple):
    """A stored matrix [.., k, n]: int8 with scales [.., G, n] of G contiguous groups of rows, or plain floats."""

    weight: jax.Array
    scales: jax.Array | None


Params = Mapping[str, Matrix]
"""The parameters of one module by the stored name below it, such as `moe/linear/w`; norms have no scales either."""


class ModelParams(NamedTuple):
    """All parameters: the embedding table [v, d] in the compute dtype, the last norm [d], and each layer's."""

    table: jax.Array
    norm: jax.Array
    layers: tuple[Params, ...]


def check_config(config: LanguageModelConfig, mesh: Mesh | None) -> None:
    """Raise Unsupported for another compute dtype, ValueError for a mesh that does not divide an expert's width."""
    if config.fprop_dtype not in FPROP_DTYPES:
        raise Unsupported(f"fprop_dtype {config.fprop_dtype!r}: jax_grouped computes in {' or '.join(FPROP_DTYPES)}")
    width = config.axis_sizes["f"]
    if mesh is not None and width % mesh.shape["model"]:
        raise ValueError(f"{mesh.shape['model']} model shards do not divide f = {width}: choose a mesh that does")


def load_params(config: LanguageModelConfig, weights: Weights, mesh: Mesh | None) -> ModelParams:
    """Return the stored weights on the device or the mesh; matrices stay as they are stored."""
    stored = {name.removesuffix(".weight") for name in weights if not name.endswith(".scales")}

    def layer(index: int) -> Params:
        prefix = f"transformer/decoder_layer_{index}/"
        names = [name for name in stored if name.startswith(prefix)]
        return {name.removeprefix(prefix): load_matrix(name, weights, mesh) for name in sorted(names)}

    return ModelParams(
        table=place(weights["language_model/in_out_embed/embeddings"], P(), mesh).astype(config.fprop_dtype),
        norm=place(weights["language_model/rms_norm/scale"], P(), mesh),
        layers=tuple(layer(i) for i in range(config.model.num_layers)),
    )


def load_matrix(name: str, weights: Weights, mesh: Mesh | None) -> Matrix:
    """Return one stored parameter, on a mesh in parts over its `model` axis (SPEC §7).

    A shard of a row-parallel matrix holds whole groups of scales: groups are split where the mesh cuts them.
    """
    num_shards = 1 if mesh is None else mesh.shape["model"]
    if name in weights:
        return Matrix(place(weights[name], spec_of(name, weights[name], num_shards), mesh), None)
    weight, scales = weights[f"{name}.weight"], weights[f"{name}.scales"]
    spec = spec_of(name, weight, num_shards)
    if name.endswith(ROW_PARALLEL):
        scales = scales.repeat(math.lcm(scales.shape[-2], num_shards) // scales.shape[-2], axis=-2)
    scales_spec = spec if name.endswith(ROW_PARALLEL) else P(*spec[:-2], None, spec[-1]) if spec else P()
    return Matrix(place(weight, spec, mesh), place(scales, scales_spec, mesh))


def spec_of(name: str, weight: Array, num_shards: int) -> P:
    """Return where a parameter lies: matrices in parts over `model` where that divides them, all else everywhere."""
    leading = (None,) * (weight.ndim - 2)
    if name.endswith(ROW_PARALLEL):
        return P() if weight.shape[-2] % num_shards else P(*leading, "model", None)
    if name.endswith(COLUMN_PARALLEL):
        return P() if weight.shape[-1] % num_shards else P(*leading, None, "model")
    return P()


def place(array: Array, spec: P, mesh: Mesh | None) -> jax.Array:
    """Return an array on the default device, or on a mesh as the spec says."""
    return jnp.asarray(array) if mesh is None else jax.device_put(array, NamedSharding(mesh, spec))
