"""Parameters from a checkpoint's files straight to their shards, in parallel, without a second copy (SPEC §7, §8)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from grok_conformance.reference.checkpoint.arrays import NUM_THREADS, Region, read_regions, whole
from grok_conformance.reference.checkpoint.layout import LeafFile, find_leaves
from grok_conformance.reference.checkpoint.pickles import Array, StoredArray
from grok_conformance.reference.checkpoint.quantizing import check_groups, read_quantized
from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.parameters import parameter_shapes
from grok_conformance.reference.partitioning import parameter_shardings
from grok_conformance.reference.quantization import QuantizedWeight8bit, is_quantized

Params = dict[str, dict[str, Any]]


def load(
    directory: Path | str, config: LanguageModelConfig, mesh: Mesh | None = None, *, quantize: int | None = None
) -> Params:
    """Return the parameters `{module_path: {name: array | QuantizedWeight8bit}}` of a published checkpoint (SPEC §8).

    `directory` is `ckpt-0` or its parent. On a mesh the arrays are jax.Arrays placed by the partition rules (SPEC §7),
    each shard read straight from its file; axes that the mesh does not divide, such as rows of scales, are whole on
    every device. Without a mesh they are NumPy arrays, aligned so that `jnp.asarray` on the CPU copies nothing.
    With `quantize`, plain float weights become 8-bit ones while they are read, a block at a time (SPEC §3): those whose
    rows are divided over model shards with so many groups of scales, the others with one. What is quantised already
    stays as it is.
    Raises CheckpointError, before any array is read, if a file is missing, extra, truncated, hostile or in a wrong
    place, or if its dtype or shape contradicts the configuration; and for a value that is not finite.
    """
    return _load(Path(directory), config, mesh, module_prefix="", quantize=quantize)


def load_layer(directory: Path | str, config: LanguageModelConfig, i: int, mesh: Mesh | None = None) -> Params:
    """Return the parameters of decoder layer `i` under their full paths, as `load` does (SPEC §8).

    Raises CheckpointError as `load` does, for the files of this layer; IndexError if there is no such layer.
    """
    if not 0 <= i < config.model.num_layers:
        raise IndexError(f"layer {i} does not exist: the config has layers 0 to {config.model.num_layers - 1}")
    return _load(Path(directory), config, mesh, module_prefix=f"transformer/decoder_layer_{i}/")


def load_language_model(directory: Path | str, config: LanguageModelConfig, mesh: Mesh | None = None) -> Params:
    """Return the embedding and the last norm, which belong to no layer, as `load` does (SPEC §8)."""
    return _load(Path(directory), config, mesh, module_prefix="language_model/")


def _load(
    directory: Path, config: LanguageModelConfig, mesh: Mesh | None, *, module_prefix: str, quantize: int | None = None
) -> Params:
    leaves = find_leaves(directory, config, module_prefix)
    types: Params = {leaf.module: {} for leaf in leaves}
    for leaf in leaves:
        types[leaf.module][leaf.name] = (
            _stored_type(leaf) if quantize is None else _quantized_type(leaf, config, quantize)
        )
    shardings = None if mesh is None else parameter_shardings(types, mesh)
    params: Params = {leaf.module: {} for leaf in leaves}
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for leaf in leaves:
            sharding = None if shardings is None else shardings[leaf.module][leaf.name]
            params[leaf.module][leaf.name] = _read(leaf, types[leaf.module][leaf.name], sharding, threads)
    return params


def _stored_type(leaf: LeafFile) -> Any:
    """Return a leaf with what its file says of its arrays in their place."""
    weight, scales = leaf.stored.weight, leaf.stored.scales
    return weight if scales is None else QuantizedWeight8bit(weight, scales)


def _quantized_type(leaf: LeafFile, config: LanguageModelConfig, num_groups: int) -> Any:
    """Return what a leaf becomes when it is quantised; raises CheckpointError if its rows do not divide into groups."""
    expected = parameter_shapes(config, num_groups=num_groups)[leaf.module][leaf.name]
    if leaf.stored.scales is not None or not is_quantized(expected):
        return _stored_type(leaf)
    check_groups(leaf, expected)
    return expected


def _read(leaf: LeafFile, leaf_type: Any, sharding: Any, threads: Executor) -> Any:
    if is_quantized(leaf_type) and leaf.stored.scales is None:
        quantized = read_quantized(leaf, leaf_type, threads)
        return quantized if sharding is None else jax.tree.map(_put, quantized, sharding)
    if sharding is None:
        return jax.tree.map(
            lambda stored: read_regions(leaf.path, stored, [whole(stored.shape)], threads)[0], leaf_type
        )
    return jax.tree.map(lambda stored, place: _place(leaf.path, stored, place, threads), leaf_type, sharding)


def _place(path: Path, stored: StoredArray, sharding: NamedSharding, threads: Executor) -> jax.Array:
    indices = sharding.addressable_devices_indices_map(stored.shape).values()
    regions = sorted({_region(index, stored.shape) for index in indices})
    shards = dict(zip(regions, read_regions(path, stored, regions, threads), strict=True))
    return jax.make_array_from_callback(stored.shape, sharding, lambda index: shards[_region(index, stored.shape)])


def _put(array: Array, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _region(index: Sequence[slice] | None, shape: Sequence[int]) -> Region:
    if index is None:
        return whole(shape)
    bounds = (part.indices(length) for part, length in zip(index, shape, strict=True))
    return tuple((start, stop) for start, stop, _ in bounds)
