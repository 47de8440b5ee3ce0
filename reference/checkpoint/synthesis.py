"""Checkpoints of any size with random weights whose statistics are those reported for Grok-1 (SPEC §8)."""

from __future__ import annotations

import math
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from reference.checkpoint.layout import in_file_order
from reference.checkpoint.pickles import Array, CheckpointError
from reference.checkpoint.reading import NUM_THREADS, aligned_empty
from reference.checkpoint.writing import Leaf, LeafSource, write
from reference.config import LanguageModelConfig
from reference.parameters import parameter_shapes
from reference.quantization import MAX_WEIGHT, QuantizedWeight8bit, is_quantized

EMBEDDING_RMS = 0.01274

ATTENTION_UPDATE = 0.88
"""RMS of the attention's update over that of the residual stream to which block 0 adds it."""

MOE_UPDATE = 0.48
"""Likewise for the MoE."""

ROUTER_GAP = 0.006
"""Median gap between the best two router probabilities."""

ROUTER_SPREAD = 0.2
"""The router's columns have norms from 1 - this to 1 + this times their mean: 8 experts get loads from 0.10 to 0.15."""

ATTENTION_LOGITS_STD = 2.5
"""Ours: heads attend to a few tokens each; averages over many would be alike, and overload the experts of their kind."""

LOGITS_STD = 2.5
"""Ours: a distribution of the next token that is neither flat nor certain."""

SPREAD = 0.1
"""Ours: relative spread of the elements of scales and of norms, so that one in a wrong place shows."""

CHUNK_ELEMENTS = 1 << 22
"""Elements drawn from one seed: the weights do not depend on the number of threads."""

BLOCK_PAIRS = 1 << 16
"""Pairs of int8 weights drawn at a time: the random numbers stay in the processor's cache."""


def synthesize(
    directory: Path,
    config: LanguageModelConfig,
    *,
    distinct_layers: int | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Write a checkpoint of random weights as `directory/ckpt-0`, and return that folder (SPEC §8).

    Update, load and gap statistics hold at block 0, for which they were reported; all layers have scales of the same
    size, so that the residual stream grows as in a random walk. With `distinct_layers` only so many layers are made,
    and shared by hard links in the order of `layer_kind`. `progress` is told of bytes as they are written.
    Raises CheckpointError if the disk has too little room, if there are fewer layers than distinct ones, and as `write`.
    """
    num_layers = config.model.num_layers
    if distinct_layers is not None and not 1 <= distinct_layers <= num_layers:
        raise CheckpointError(f"{distinct_layers} distinct layers of {num_layers}: choose a number from 1 to {num_layers}")
    needed, free = unique_bytes(config, distinct_layers), _free_bytes(directory)
    if needed > free:
        raise CheckpointError(f"{directory}: needs {needed} bytes, {free} are free; choose fewer --distinct-layers")
    sources = []
    for module, name, shapes in in_file_order(parameter_shapes(config)):
        content = _content(f"{module}/{name}", distinct_layers or num_layers)
        make = partial(_make, config, content, shapes, seed)
        sources.append(LeafSource(f"{module}/{name}", content, make))
    return write(directory, sources, progress)


def layer_kind(i: int, num_kinds: int) -> int:
    """Return which of the distinct layers stands at layer `i`: the sum of the digits of i to base n, modulo n.

    This is the Thue-Morse sequence of n symbols: no stretch of it repeats twice in a row and begins a third time, so
    that no shift or exchange of layers goes unnoticed for long.
    """
    digits, rest = 0, i
    while rest:
        rest, digit = divmod(rest, max(num_kinds, 2))
        digits += digit
    return digits % num_kinds


def unique_bytes(config: LanguageModelConfig, distinct_layers: int | None = None) -> int:
    """Return the bytes of the arrays that are written once, without those shared by hard links."""
    kinds = distinct_layers or config.model.num_layers
    leaves = {
        _content(f"{module}/{name}", kinds): sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(shapes))
        for module, name, shapes in in_file_order(parameter_shapes(config))
    }
    return sum(leaves.values())


def _content(parameter: str, num_kinds: int) -> str:
    return re.sub(r"decoder_layer_(\d+)", lambda found: f"layer_kind_{layer_kind(int(found[1]), num_kinds)}", parameter)


def _free_bytes(directory: Path) -> int:
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _make(config: LanguageModelConfig, content: str, shapes: Any, seed: int) -> Leaf:
    """Return the weights of a leaf; they depend on its content's name, the config and the seed alone."""
    m = config.model
    entropy = (seed, zlib.crc32(content.encode()))
    embedding_rms = EMBEDDING_RMS * config.embedding_multiplier_scale
    norms = {
        "language_model/rms_norm": LOGITS_STD / (math.sqrt(m.emb_size) * EMBEDDING_RMS * config.output_multiplier_scale),
        "rms_norm_1": ATTENTION_UPDATE * embedding_rms,
        "rms_norm_3": MOE_UPDATE * math.hypot(1, ATTENTION_UPDATE) * embedding_rms,
    }
    module, _ = content.rsplit("/", 1)
    ...
