"""The experts: each runs once, on its own tokens, tile by tile of its hidden width (SPEC §4.6)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from grok_conformance.candidates.jax_grouped.layers import multiply, multiply_row
from grok_conformance.candidates.jax_grouped.parameters import Matrix, Params

SMALLEST_BATCH = 16
"""Rows below which an expert is bound by reading its weights: fewer rows cost the same."""

FEW_WEIGHTS = 2**17
"""Weights of a matrix up to which every expert takes all rows: compiling it for fewer takes longer than it spares."""

MAX_TILE_WEIGHTS = 2**22
"""Weights of one matrix that are widened at a time: in float32 they fill half a last-level cache of 32 MiB."""

HIDDEN_VALUES = ("expert_activation", "expert_up", "expert_hidden")


class Experts(NamedTuple):
    """The stored matrices of all experts: linear and linear_v [e, d, f], linear_1 [e, f, d] (SPEC §2)."""

    linear: Matrix
    linear_v: Matrix
    linear_1: Matrix

    @property
    def tile_size(self) -> int:
        """The hidden channels computed at a time: the most that keep a tile small and lie in one group of scales."""
        _, num_rows, num_columns = self.linear_1.weight.shape
        scales = self.linear_1.scales
        group = num_rows if scales is None else num_rows // scales.shape[-2]
        most = max(1, MAX_TILE_WEIGHTS // num_columns)
        return max(size for size in range(1, min(group, most) + 1) if group % size == 0)


def compute_experts(
    params: Params, x: jax.Array, index: jax.Array, names: Collection[str], mesh: Mesh | None
) -> dict[str, jax.Array]:
    """Return `expert_output` [b, t, c, d] float32 of x [b, t, d] and its chosen experts [b, t, c], and what names ask.

    On a mesh each model shard holds a part of f, and the outputs are summed over the shards in float32; the batch is
    divided over the data shards where they divide it (SPEC §7).
    """
    experts = Experts(*(params[f"moe/{name}/w"] for name in Experts._fields))
    names = (*(name for name in HIDDEN_VALUES if name in names), "expert_output")
    if mesh is None:
        return run_experts(x, index, experts, names)

    def run_shard(x: jax.Array, index: jax.Array, experts: Experts) -> dict[str, jax.Array]:
        values = run_experts(x, index, experts, names)
        return {**values, "expert_output": jax.lax.psum(values["expert_output"], "model")}

    rows = None if len(x) % mesh.shape["data"] else "data"
    columns, stacked = P(None, None, "model"), P(None, "model", None)

    def specs(matrix: Matrix, spec: P) -> Matrix:
        return Matrix(spec, None if matrix.scales is None else spec)  # type: ignore[arg-type] # in an array's place

    weight_specs = Experts(
        specs(experts.linear, columns), specs(experts.linear_v, columns), specs(experts.linear_1, stacked)
    )
    return jax.shard_map(
        run_shard,
        mesh=mesh,
        in_specs=(P(rows), P(rows), weight_specs),
        out_specs={name: P(rows, None, None, "model") for name in names[:-1]} | {"expert_output": P(rows)},
        check_vma=False,  # the loop starts from zeros, which are the same on every shard, unlike what replaces them
    )(x, index, experts)


def batch_sizes(num_tokens: int, num_weights: int) -> tuple[int, ...]:
    """Return the numbers of rows for which an expert is compiled, the last one for all tokens: at most 1.5 apart.

    `num_weights` are those of one of its matrices.
    """
    if num_weights <= FEW_WEIGHTS:
        return (num_tokens,)
    sizes = sorted(size << shift for shift in range(num_tokens.bit_length()) for size in (SMALLEST_BATCH, 24))
    return (*(size for size in sizes if size < num_tokens), num_tokens)


def run_experts(x: jax.Array, index: jax.Array, experts: Experts, names: Collection[str]) -> dict[str, jax.Array]:
    """Return the named values [b, t, c, ..] of the chosen experts.

    Pairs of token and expert are sorted by expert. Each expert takes its rows in the smallest compiled batch that holds
    them; what the batch computes beyond its own rows belongs to experts that come later and overwrite it.
    """
    (num_experts, d, f), (b, t, c) = experts.linear.weight.shape, index.shape
    sizes = batch_sizes(b * t, d * f)
    chosen = index.reshape(-1)  # [b·t·c]
    order = jnp.argsort(chosen)
    num_rows = jnp.bincount(chosen, length=num_experts)  # [e]
    first_row = jnp.cumsum(num_rows) - num_rows  # [e]
    rows = jnp.pad(x.reshape(b * t, -1)[order // c], ((0, sizes[-1]), (0, 0)))  # [b·t·c + b·t, d]

    def run_batch(size: int, expert: jax.Array) -> Callable[[dict[str, jax.Array]], dict[str, jax.Array]]:
        def run(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
            batch = jax.lax.dynamic_slice_in_dim(rows, first_row[expert], size)
            made = (run_expert if size > 1 else run_expert_on_row)(batch, expert, experts, names)
            return {
                name: jax.lax.dynamic_update_slice_in_dim(value, made[name], first_row[expert], 0)
                for name, value in values.items()
            }

        return run

    def run(expert: jax.Array, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        branches = [lambda values: values, *(run_batch(size, expert) for size in sizes)]
        smallest = jnp.searchsorted(jnp.array((0, *sizes)), num_rows[expert])
        filled: dict[str, jax.Array] = jax.lax.switch(smallest, branches, values)
        return filled

    empty = empty_values(len(rows), x.dtype, experts, names)
    values: dict[str, jax.Array] = jax.lax.fori_loop(0, num_experts, run, empty)
    return {name: value[jnp.argsort(order)].reshape(b, t, c, -1) for name, value in values.items()}


def empty_values(num_rows: int, fprop_dtype: Any, experts: Experts, names: Collection[str]) -> dict[str, jax.Array]:
    """Return zeros for the named values: activation and up [n, f] in the experts' dtype, the others float32.

    Float32 scales make an expert compute in float32 (SPEC §4.6, §9).
    """
    scales = experts.linear.scales
    dtype = fprop_dtype if scales is None else jnp.promote_types(scales.dtype, fprop_dtype)
    _, num_hidden, num_columns = experts.linear_1.weight.shape
    shapes = {
        "expert_activation": (num_hidden, dtype),
        "expert_up": (num_hidden, dtype),
        "expert_hidden": (num_hidden, jnp.float32),
        "expert_output": (num_columns, jnp.float32),
    }
    return {name: jnp.zeros((num_rows, shapes[name][0]), shapes[name][1]) for name in names}


def run_expert(x: jax.Array, expert: jax.Array, experts: Experts, names: Collection[str]) -> dict[str, jax.Array]:
    """Return one expert's named values for its rows x [n, d], summed over tiles of its hidden channels.

    The hidden values and their product with linear_1 are float32 (SPEC §4.6).
    """
    size = experts.tile_size
    num_hidden = experts.linear_1.weight.shape[1]
    empty = empty_values(len(x), x.dtype, experts, (*HIDDEN_VALUES, "expert_output"))

    def run_tile(tile: jax.Array, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        start = tile * size
        dtype = empty["expert_activation"].dtype
        activation, up = (
            multiply(x, take_columns(matrix, expert, start, size)).astype(dtype)
            for matrix in (experts.linear, experts.linear_v)
        )  # [n, tile]
        hidden = gated(activation, up)
        made = {"expert_activation": activation, "expert_up": up, "expert_hidden": hidden}
        output = multiply(hidden, take_rows(experts.linear_1, expert, start, size))  # [n, d]
        shown = {
            name: jax.lax.dynamic_update_slice_in_dim(values[name], made[name], start, 1)
            for name in made
            if name in names
        }
        return {**shown, "expert_output": values["expert_output"] + output}

    wanted = {name: value for name, value in empty.items() if name in names}
    values: dict[str, jax.Array] = jax.lax.fori_loop(0, num_hidden // size, run_tile, wanted)
    return values


def run_expert_on_row(
    x: jax.Array, expert: jax.Array, experts: Experts, names: Collection[str]
) -> dict[str, jax.Array]:
    """Return one expert's named values for one row x [1, d], of whole matrices."""
    dtype = empty_values(1, x.dtype, experts, ("expert_activation",))["expert_activation"].dtype
    activation, up = (
        multiply_row(x[0], matrix, expert).astype(dtype) for matrix in (experts.linear, experts.linear_v)
    )  # [f]
    hidden = gated(activation, up)
    output = multiply_row(hidden, experts.linear_1, expert)  # [d]
    made = {"expert_activation": activation, "expert_up": up, "expert_hidden": hidden, "expert_output": output}
    return {name: made[name][None] for name in names}


def gated(activation: jax.Array, up: jax.Array) -> jax.Array:
    """Return gelu(activation) · up in float32 (SPEC §4.6)."""
    return jax.nn.gelu(activation.astype(jnp.float32), approximate=True) * up.astype(jnp.float32)


def take_columns(matrix: Matrix, expert: jax.Array, start: jax.Array, size: int) -> Matrix:
    """Return some columns [k, size] of one expert's matrix [e, k, n]."""

    def take(stored: jax.Array) -> jax.Array:
        sliced: jax.Array = jax.lax.dynamic_slice(stored, (expert, 0, start), (1, stored.shape[1], size))[0]
        return sliced

    return Matrix(take(matrix.weight), None if matrix.scales is None else take(matrix.scales))


def take_rows(matrix: Matrix, expert: jax.Array, start: jax.Array, size: int) -> Matrix:
    """Return some rows [size, n] of one expert's matrix [e, k, n]; they lie in one group of its scales."""
    weight, scales = matrix
    _, num_rows, num_columns = weight.shape
    rows = jax.lax.dynamic_slice(weight, (expert, start, 0), (1, size, num_columns))[0]
    if scales is None:
        return Matrix(rows, None)
    group = start // (num_rows // scales.shape[1])
    return Matrix(rows, jax.lax.dynamic_slice(scales, (expert, group, 0), (1, 1, num_columns))[0])


def combine(gate: jax.Array, outputs: jax.Array, dtype: Any) -> jax.Array:
    """Sum outputs [b, t, c, d] times gates [b, t, c] rounded to dtype; float32 inside, rounded once (SPEC §4.6)."""
    rounded = gate.astype(dtype).astype(jnp.float32)
    return jnp.sum(rounded[..., None] * outputs, axis=2).astype(dtype)
