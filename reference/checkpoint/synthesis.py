"""Checkpoints of any size with random weights whose statistics are those reported for Grok-1 (SPEC §8)."""

from __future__ import annotations

import functools
import math
import re
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from grok_conformance.reference.checkpoint.arrays import NUM_THREADS, aligned_empty
from grok_conformance.reference.checkpoint.layout import in_file_order
from grok_conformance.reference.checkpoint.pickles import CheckpointError
from grok_conformance.reference.checkpoint.writing import Leaf, LeafSource, write
from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.parameters import TrainingState, parameter_shapes
from grok_conformance.reference.quantization import MAX_WEIGHT, QuantizedWeight8bit, is_quantized

EMBEDDING_RMS = 0.01274

ATTENTION_UPDATE = 0.88
"""RMS of the attention's update over that of the residual stream to which block 0 adds it."""

MOE_UPDATE = 0.48
"""Likewise for the MoE."""

ROUTER_GAP = 0.006
"""Median gap between the best two router probabilities."""

ROUTER_SPREAD = 0.1
"""The router's columns have norms from 1 - this to 1 + this times their mean: loads of 0.10 to 0.16 in block 0."""

ATTENTION_LOGITS_STD = 4.0
"""Ours: heads attend to a few tokens; averages over many would be alike, and overload the experts of their kind."""

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
    Raises CheckpointError if the disk has too little room, if there are fewer layers than distinct ones, as `write`.
    """
    num_layers = config.model.num_layers
    if distinct_layers is not None and not 1 <= distinct_layers <= num_layers:
        raise CheckpointError(f"{distinct_layers} distinct layers of {num_layers}: choose from 1 to {num_layers}")
    needed, free = unique_bytes(config, distinct_layers), _free_bytes(directory)
    if needed > free:
        raise CheckpointError(f"{directory}: needs {needed} bytes, {free} are free; choose fewer --distinct-layers")
    sources = []
    for module, name, shapes in in_file_order(TrainingState(parameter_shapes(config))):
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
        _content(f"{module}/{name}", kinds): shapes
        for module, name, shapes in in_file_order(TrainingState(parameter_shapes(config)))
    }
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(leaves))


def _content(parameter: str, num_kinds: int) -> str:
    return re.sub(r"decoder_layer_(\d+)", lambda found: f"layer_kind_{layer_kind(int(found[1]), num_kinds)}", parameter)


def _free_bytes(directory: Path) -> int:
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _make(config: LanguageModelConfig, content: str, shapes: Any, seed: int) -> Leaf:
    """Return the weights of a leaf; they depend on its content's name, the config and the seed alone."""
    m = config.model
    entropy = (seed, zlib.crc32(content.encode()))
    block = content.split("/")[-2]
    if is_quantized(shapes):
        gain = ATTENTION_LOGITS_STD / (math.sqrt(m.key_size) * m.attn_output_multiplier) if block == "query" else 1.0
        return _quantized(shapes, gain, entropy)
    if block == "in_out_embed":
        return _normal(shapes.shape, EMBEDDING_RMS, entropy), None
    if block == "router":
        columns = router_logits_std(m.num_experts) / math.sqrt(m.emb_size)  # [e]
        return _normal(shapes.shape, 1.0, entropy) * columns.astype(np.float32), None
    scale = 1 + SPREAD * _normal(shapes.shape, 1.0, entropy)  # [d]
    rms = np.float32(_norm_rms(config, content) / math.sqrt(np.mean(np.square(scale, dtype=np.float64))))
    return scale * rms, None


def _norm_rms(config: LanguageModelConfig, content: str) -> float:
    """Return the RMS of a norm's scale: of what the norm puts out."""
    residual = EMBEDDING_RMS * config.embedding_multiplier_scale
    if content.startswith("language_model/"):
        return LOGITS_STD / (math.sqrt(config.model.emb_size) * EMBEDDING_RMS * config.output_multiplier_scale)
    if "/rms_norm_1/" in content:
        return ATTENTION_UPDATE * residual
    if "/rms_norm_3/" in content:
        return MOE_UPDATE * math.hypot(1, ATTENTION_UPDATE) * residual
    return 1.0


@functools.cache
def router_logits_std(num_experts: int) -> NDArray[np.float64]:
    """Return the standard deviation of each expert's logit [e] that gives ROUTER_GAP and ROUTER_SPREAD (SPEC §8).

    Found by bisection on random tokens: the gap grows with the logits.
    """
    normals = np.random.default_rng(0).standard_normal((1 << 14, num_experts))  # [t, e]
    columns = 1 + ROUTER_SPREAD * np.linspace(-1, 1, num_experts)
    low, high = 0.0, 10.0
    for _ in range(30):
        middle = (low + high) / 2
        weights = np.exp(normals * columns * middle)
        best = np.partition(weights / weights.sum(axis=1, keepdims=True), -2, axis=1)[:, -2:]
        if np.median(best[:, 1] - best[:, 0]) < ROUTER_GAP:
            low = middle
        else:
            high = middle
    std: NDArray[np.float64] = columns * high
    return std


def _quantized(shapes: QuantizedWeight8bit, gain: float, entropy: tuple[int, ...]) -> Leaf:
    """Return a weight whose output has `gain` times the RMS of its input, normal up to the ends of int8."""
    table = _normal_int8()
    pairs = np.stack(np.broadcast_arrays(table[:, None], table), axis=-1).view(np.int16)[..., 0].reshape(-1)  # [65536]
    weight = aligned_empty(shapes.shape, np.dtype(np.int8))
    flat = weight.reshape(-1)

    def fill(generator: np.random.Generator, start: int, stop: int) -> None:
        for low in range(start, stop, 2 * BLOCK_PAIRS):
            part = flat[low : min(low + 2 * BLOCK_PAIRS, stop)]
            drawn = pairs[_random_uint16(generator, (part.size + 1) // 2)]
            part[:] = drawn.view(np.int8)[: part.size]

    _fill_in_chunks(fill, weight.size, entropy)
    scales_std = gain / (math.sqrt(shapes.shape[-2]) * float(np.sqrt(np.mean(np.square(table, dtype=np.float64)))))
    scales = scales_std * (1 + SPREAD * _normal(shapes.scales.shape, 1.0, (*entropy, 1)))
    return weight, scales.astype(shapes.scales.dtype)


def _normal_int8() -> NDArray[np.int8]:
    """Return the 256 quantiles of a normal distribution, the outermost at ±127 [256]."""
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
    table: NDArray[np.int8] = np.rint(quantiles * (MAX_WEIGHT / quantiles[-1])).astype(np.int8)
    return table


def _random_uint16(generator: np.random.Generator, size: int) -> NDArray[np.uint16]:
    words = generator.integers(0, 2**64, -(-size // 4), dtype=np.uint64)
    return words.view(np.uint16)[:size]


def _normal(shape: tuple[int, ...], std: float, entropy: tuple[int, ...]) -> NDArray[np.float32]:
    array = aligned_empty(shape, np.dtype(np.float32))
    flat = array.reshape(-1)

    def fill(generator: np.random.Generator, start: int, stop: int) -> None:
        generator.standard_normal(out=flat[start:stop], dtype=np.float32)
        flat[start:stop] *= np.float32(std)

    _fill_in_chunks(fill, array.size, entropy)
    return array


def _fill_in_chunks(fill: Callable[[np.random.Generator, int, int], None], size: int, entropy: tuple[int, ...]) -> None:
    """Call fill(generator, start, stop) for each chunk in threads, each chunk with a generator of its own."""

    def fill_chunk(start: int) -> None:
        generator = np.random.Generator(np.random.SFC64((*entropy, start)))
        fill(generator, start, min(start + CHUNK_ELEMENTS, size))

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        list(threads.map(fill_chunk, range(0, size, CHUNK_ELEMENTS)))
