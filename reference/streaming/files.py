"""Where a layer's weights lie in the files of a checkpoint, in the pieces in which they are read (SPEC §8)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from grok_conformance.reference.checkpoint.layout import LeafFile, find_leaves
from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.experts import ExpertWeights
from grok_conformance.reference.quantization import QuantizedWeight8bit
from grok_conformance.reference.streaming.pieces import pieces_of
from grok_conformance.reference.streaming.reading import ReadAhead, Region, element, slot_bytes, whole

NUM_WORKERS = min(8, os.cpu_count() or 1)
"""Pieces of experts that are multiplied at the same time."""

NUM_AHEAD = 16
"""Requests that are read, or being read, beyond those in use: as many bytes as a disk gives while a layer's attention,
which comes between its experts and those before, is computed."""

EXPERTS = "moe/linear"
"""How the modules of the experts' matrices begin, in their layer."""


@dataclass(frozen=True, eq=False)
class Stream:
    """A checkpoint that is read piece by piece while the model runs; `open_stream` makes one.

    `layers` are the leaves of every layer, their modules named without it. `table` is the embedding, `final_norm` the
    last norm.
    """

    config: LanguageModelConfig
    layers: Sequence[Sequence[LeafFile]]
    table: Region
    final_norm: Region
    slot_bytes: int
    reader: ReadAhead
    workers: ThreadPoolExecutor

    @property
    def memory_bytes(self) -> int:
        """The bytes of memory that are read into."""
        return self.reader.num_bytes

    @property
    def table_row_bytes(self) -> int:
        """The bytes of one row of the embedding table."""
        return element(self.table, 0).num_bytes

    def leaves(self, layer: int) -> list[LeafFile]:
        """Return a layer's leaves but for the experts'."""
        return [leaf for leaf in self.layers[layer] if not leaf.module.startswith(EXPERTS)]

    def expert_leaves(self, layer: int) -> list[LeafFile]:
        """Return the leaves of a layer's experts."""
        return [leaf for leaf in self.layers[layer] if leaf.module.startswith(EXPERTS)]

    def expert_values(self, layer: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shape and dtype of what one pair of token and expert gives, by name."""
        m, fprop = self.config.model, self.config.fprop_dtype
        scales = {leaf.module: leaf.stored.scales for leaf in self.expert_leaves(layer)}

        def projected(module: str) -> jax.ShapeDtypeStruct:
            stored = scales[module]
            return jax.ShapeDtypeStruct((m.ffn_size,), jnp.promote_types(stored.dtype, fprop) if stored else fprop)

        return {
            "expert_activation": projected("moe/linear"),
            "expert_up": projected("moe/linear_v"),
            "expert_hidden": jax.ShapeDtypeStruct((m.ffn_size,), jnp.float32),
            "expert_output": jax.ShapeDtypeStruct((m.emb_size,), jnp.float32),
        }

    def layer(self, layer: int) -> list[Region]:
        """Return the regions of a layer's leaves but for the experts', array by array."""
        return _regions(self.leaves(layer))

    def expert(self, layer: int, e: int) -> ExpertWeights:
        """Return the pieces of one expert's matrices, each a list of `Piece`, in the order in which they are needed."""
        leaves = {leaf.module.removeprefix("moe/"): leaf for leaf in self.expert_leaves(layer)}
        return ExpertWeights(*(pieces_of(leaves[name], e) for name in ExpertWeights._fields))


@contextmanager
def open_stream(
    directory: Path | str, config: LanguageModelConfig, *, num_workers: int = NUM_WORKERS
) -> Iterator[Stream]:
    """Open a checkpoint to be streamed; memory for the experts in use and some more is taken at once.

    Raises CheckpointError, as `checkpoint.load` does, before any array is read.
    """
    by_module: dict[str, list[LeafFile]] = {}
    for leaf in find_leaves(Path(directory), config):
        owner, _, rest = leaf.module.removeprefix("transformer/").partition("/")
        by_module.setdefault(owner, []).append(LeafFile(rest, leaf.name, leaf.path, leaf.stored))
    layers = [by_module[f"decoder_layer_{i}"] for i in range(config.model.num_layers)]
    outside = {leaf.module: whole(leaf.path, leaf.stored.weight) for leaf in by_module["language_model"]}
    table = outside["in_out_embed"]
    num_bytes = max(slot_bytes(regions) for leaves in layers for regions in _requests(leaves))
    num_bytes = max(num_bytes, slot_bytes([element(table, 0)]))
    reader = ReadAhead(num_workers + NUM_AHEAD, num_bytes)
    with ThreadPoolExecutor(num_workers) as workers:
        try:
            yield Stream(config, layers, table, outside["rms_norm"], num_bytes, reader, workers)
        finally:
            reader.close()


def layer_bytes(stream: Stream, layer: int) -> int:
    """Return the bytes of a layer's weights."""
    return sum(region.num_bytes for region in _regions(stream.layers[layer]))


def layer_params(leaves: Sequence[LeafFile], arrays: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Return `{module: {name: leaf}}` of leaves and their arrays, in the order in which `Stream` requests them.

    The device is the default one; on the CPU the arrays are taken as they are (`jnp.asarray` would copy them).
    """
    params: dict[str, dict[str, Any]] = {}
    left = iter(arrays)
    for leaf in leaves:
        params.setdefault(leaf.module, {})[leaf.name] = stored_weight([next(left) for _ in leaf.stored.arrays])
    return params


def stored_weight(arrays: Sequence[Any]) -> Any:
    """Return a weight from its arrays: itself, and its scales if it has any."""
    weight, *scales = map(jax.device_put, arrays)
    return QuantizedWeight8bit(weight, *scales) if scales else weight


def _requests(leaves: Sequence[LeafFile]) -> Iterator[Sequence[Region]]:
    experts = [leaf for leaf in leaves if leaf.module.startswith(EXPERTS)]
    yield _regions([leaf for leaf in leaves if leaf not in experts])
    for leaf in experts:
        yield pieces_of(leaf, 0)[0].regions


def _regions(leaves: Sequence[LeafFile]) -> list[Region]:
    return [whole(leaf.path, array) for leaf in leaves for array in leaf.stored.arrays]
