"""A tiny golden set for the tests of the store: two presets, two cases, every tap, values of no meaning."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import Cache, Call, Case, Preset
from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.golden.audit import demanded_taps
from grok_conformance.harness.golden.manifest import Manifest, Provenance
from grok_conformance.harness.golden.writing import write_golden
from tests.small_configurations import small

CONFIG = small(
    vocab_size=7, sequence_len=4, fprop_dtype="bfloat16", emb_size=3, widening_factor=2.0, key_size=2, num_q_heads=2,
    num_kv_heads=1, num_layers=1, num_experts=3,
)  # fmt: skip
QUANTISED = Preset(
    "quantised",
    CONFIG,
    {
        "transformer/decoder_layer_0/moe/linear/w.weight": np.arange(-9, 9, dtype=np.int8).reshape(3, 3, 2),
        "transformer/decoder_layer_0/moe/linear/w.scales": np.full((3, 1, 2), 0.01, DTYPES["bfloat16"]),
    },
)
DENSE = Preset(
    "dense",
    replace(CONFIG, model=replace(CONFIG.model, num_experts=1, num_selected_experts=1)),
    {"language_model/rms_norm/scale": np.linspace(0, 1, 3, dtype=np.float32)},
)
PROVENANCE = Provenance("a test", "SPEC 1", {"numpy": "2.0"}, {"system": "any"}, {"matmul": "highest"})

DECODE = Case(
    id="quantised/decode/preloaded",
    preset="quantised",
    fprop_dtype="bfloat16",
    why="a decode step from a given cache",
    origin="a test",
    calls=(Call("decode", np.array([[5], [6]], np.int32), np.array([1, 1], np.int32)),),
    preload=Cache(
        np.ones((1, 2, 4, 1, 2), DTYPES["bfloat16"]),
        np.zeros((1, 2, 4, 1, 2), DTYPES["bfloat16"]),
        np.array([1, 3], np.int32),
    ),
    detects=("decode_position_zero",),
)
PREFILL = Case(
    id="dense/prefill/padded",
    preset="dense",
    fprop_dtype="float32",
    why="a padded prompt",
    origin="a test",
    calls=(
        Call("prefill", np.array([[3, 4, 0]], np.int32), np.array([2], np.int32)),
        Call("decode", np.array([[5]], np.int32), np.array([1], np.int32)),
    ),
    published_degenerate=True,
)


def draw_taps(case: Case, seed: int = 0) -> dict[str, Array]:
    """Return random values for every tap that the contract demands of a case."""
    random = np.random.default_rng(seed)
    preset = QUANTISED if case.preset == QUANTISED.name else DENSE
    return {
        key: random.integers(-9, 9, shape).astype(DTYPES[dtype])
        for key, (dtype, shape) in demanded_taps(case, preset).items()
    }


def write_tiny(directory: Path, *, seed: int = 0, replace_ids: Collection[str] = ()) -> Manifest:
    """Write the tiny golden set; the seed decides the taps of the prefill case alone."""
    return write_golden(
        directory,
        suite="1.0.0",
        provenance=PROVENANCE,
        presets=(QUANTISED, DENSE),
        cases=[(DECODE, draw_taps(DECODE)), (PREFILL, draw_taps(PREFILL, seed))],
        replace=replace_ids,
    )
