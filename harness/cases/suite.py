"""The suite: the presets and cases of golden/v1, each with the reason why it exists (`golden/README.md`).

It is long because it is one table: a reader looks a case up beside its preset and the cases around it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grok_conformance.harness.cases.case import Cache, Call, CallKind, Case, Preset
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import DTYPES, LanguageModelConfig, TransformerConfig
from grok_conformance.harness.contract.grok_1 import PUBLISHED

PRODUCER = "harness.suite"
LARGE = 1e4
"""What unused cache slots are preloaded with: a leak of one of them cannot be overlooked."""

UNEQUAL = LanguageModelConfig(
    model=TransformerConfig(
        emb_size=40,
        widening_factor=6,
        key_size=8,
        num_q_heads=12,
        num_kv_heads=3,
        num_layers=2,
        attn_output_multiplier=PUBLISHED.model.attn_output_multiplier,
        num_experts=5,
        num_selected_experts=2,
    ),
    vocab_size=101,
    pad_token=0,
    eos_token=2,
    sequence_len=9,
    embedding_multiplier_scale=PUBLISHED.embedding_multiplier_scale,
    output_multiplier_scale=PUBLISHED.output_multiplier_scale,
    fprop_dtype="bfloat16",
)
"""Every axis differs: d 40, f 160, q 12, g 3, r 4, h 8, e 5, v 101, s 9, and G = 16 scale groups."""


def varied(
    *, sequence_len: int = UNEQUAL.sequence_len, vocab_size: int = UNEQUAL.vocab_size, **model: Any
) -> LanguageModelConfig:
    """Return the unequal configuration with some fields of the decoder changed."""
    return replace(UNEQUAL, sequence_len=sequence_len, vocab_size=vocab_size, model=replace(UNEQUAL.model, **model))


SQUARE: dict[str, Any] = {
    "emb_size": 40,
    "widening_factor": 1,
    "key_size": 4,
    "num_q_heads": 10,
    "num_kv_heads": 2,
    "num_experts": 7,
    "num_selected_experts": 3,
}
"""The published relation q·h = d; else every axis differs: d 40, f 32, q 10, g 2, r 5, h 4, e 7, c 3, G = 8."""


@dataclass(frozen=True)
class PresetRow:
    """A preset's configuration, the statistics of its weights, and why it exists."""

    config: LanguageModelConfig
    statistics: Statistics
    why: str


PRESETS: dict[str, PresetRow] = {
    "unequal": PresetRow(
        UNEQUAL, Statistics(seed=1, num_groups=16), "every axis has a different size, so that no swap is shape-legal"
    ),
    "realistic": PresetRow(
        varied(
            emb_size=56,
            widening_factor=3,
            key_size=12,
            num_q_heads=6,
            num_kv_heads=2,
            num_layers=3,
            num_experts=8,
            sequence_len=13,
        ),
        Statistics(seed=2, num_groups=4, router_deviation=0.16),
        "the statistics reported for the real block 0: near-ties between experts are normal",
    ),
    "stress": PresetRow(
        varied(num_experts=7, num_layers=1, sequence_len=9),
        Statistics(seed=3, num_groups=8, query_gain=25, activation_gain=3, router_deviation=8),
        "query x 25, expert activation x 3, router x 8: attention logits reach the cap, routing is decided",
    ),
    "float32_scales": PresetRow(
        varied(num_experts=4, num_selected_experts=3, num_layers=1, sequence_len=9),
        Statistics(seed=4, num_groups=2, scales_dtype="float32"),
        "int8 with float32 scales: the expert matrices and products are float32 whatever the compute dtype; top 3",
    ),
    "float_weights": PresetRow(
        varied(widening_factor=3, num_experts=6, num_selected_experts=1, num_layers=1, sequence_len=9),
        Statistics(seed=5, scales_dtype=None),
        "plain float32 matrices, not quantised; top 1",
    ),
    "dense": PresetRow(
        varied(num_experts=1, num_selected_experts=1, num_layers=2, sequence_len=9),
        Statistics(seed=6, num_groups=4),
        "one dense feed-forward block per layer, no router",
    ),
    "ties": PresetRow(
        varied(num_layers=1, sequence_len=9),
        Statistics(seed=7, num_groups=16, router_deviation=2, tied_experts=(1, 2, 4)),
        "three experts share one router column: exactly equal scores",
    ),
    "square": PresetRow(
        varied(**SQUARE, num_layers=2, vocab_size=37),
        Statistics(seed=9, num_groups=8),
        "query heads times head width is the model width, as some engines want it; all other axes differ",
    ),
    "square_stress": PresetRow(
        varied(**SQUARE, num_layers=1, vocab_size=37),
        Statistics(seed=10, num_groups=8, query_gain=25, activation_gain=3, router_deviation=8),
        "the stress statistics in the square shape: attention logits reach the cap, activations the tails of gelu",
    ),
    "long": PresetRow(
        varied(
            num_layers=1,
            key_size=4,
            num_q_heads=2,
            num_kv_heads=1,
            emb_size=24,
            widening_factor=2,
            num_experts=3,
            sequence_len=4100,
            vocab_size=37,
        ),
        Statistics(seed=8, num_groups=2),
        "a long cache, so that positions beyond the integers of bf16 (256) and TF32 (2048) can be reached",
    ),
}


def make_preset(name: str) -> Preset:
    """Draw a preset's weights."""
    row = PRESETS[name]
    return Preset(name, row.config, synthesize(row.config, row.statistics))


@dataclass(frozen=True)
class CallRow:
    """One call: its kind, the real length of each row, the padded length, and (row, position) of pads inside."""

    kind: CallKind
    lengths: tuple[int, ...]
    num_tokens: int
    pads: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """One case in every compute dtype: PRESET/AREA/WHAT, the reason why it exists, its calls, and what it must detect.

    `steps` preloads the cache of every row up to a step; the slots from there on hold large finite values.
    """

    name: str
    why: str
    calls: tuple[CallRow, ...]
    detects: tuple[str, ...]
    steps: tuple[int, ...] = ()
    published_degenerate: bool = False
    tie_rule: bool = False
    fprop_dtypes: tuple[str, ...] = ("float32", "bfloat16")


DECODE = CallRow("decode", (1, 1), 1)

CASES: tuple[CaseRow, ...] = (
    CaseRow(
        name="unequal/prefill/padded_batch",
        why="two prompts of different lengths in one padded batch, every axis of a different size",
        calls=(CallRow("prefill", (6, 4), 6),),
        detects=("gqa_tiled", "gqa_strided", "rope_interleaved", "scales_interleaved", "scales_per_shard_broadcast"),
    ),
    CaseRow(
        name="unequal/prefill/single_token",
        why="one token alone: softmax over one key, position 0",
        calls=(CallRow("prefill", (1, 1), 1),),
        detects=("mask_strict",),
    ),
    CaseRow(
        name="unequal/decode/unequal_lengths",
        why="decoding after a padded prefill: each row has its own step, and overwrites the pads' slots",
        calls=(CallRow("prefill", (6, 4), 6), DECODE, DECODE),
        detects=(
            "decode_position_zero",
            "decode_position_plus_one",
            "step_bumped_by_layer_0",
            "left_pad_positions_shared",
        ),
    ),
    CaseRow(
        name="unequal/decode/pads_in_cache",
        why="a pad inside the prompt is masked in prefill and attended once it is in the cache",
        calls=(CallRow("prefill", (6, 5), 6, pads=((0, 3), (1, 2))), DECODE),
        detects=("padding_attended",),
    ),
    CaseRow(
        name="unequal/decode/pad_token",
        why="decoding the pad token sees no key and averages uniformly over all slots (kept from the published code)",
        calls=(CallRow("prefill", (6, 6), 6), CallRow("decode", (1, 1), 1, pads=((0, 0),))),
        detects=(),
        published_degenerate=True,
    ),
    CaseRow(
        name="unequal/prefill/leading_pads",
        why="queries before the first real token see no key and average uniformly (kept from the published code)",
        calls=(CallRow("prefill", (6, 6), 6, pads=((0, 0), (0, 1), (1, 0))),),
        detects=(),
        published_degenerate=True,
    ),
    CaseRow(
        name="unequal/chunked/two_chunks",
        why="a prompt in two chunks of unequal real lengths gives what one prefill gives",
        calls=(CallRow("prefill", (3, 2), 6), CallRow("extend", (6, 4), 6)),
        detects=("decode_position_zero",),
    ),
    CaseRow(
        name="realistic/prefill/near_ties",
        why="half of the tokens have two experts within 0.006 of each other: honest ports may route them differently",
        calls=(CallRow("prefill", (11,), 11),),
        detects=(
            "router_in_bf16",
            "router_logits_capped",
            "gates_renormalised",
            "softmax_after_top_k",
            "norms_exchanged",
            "post_norm_missing",
        ),
    ),
    CaseRow(
        name="stress/prefill/saturated_cap",
        why="attention logits near the cap of 30 and large expert activations",
        calls=(CallRow("prefill", (7, 4), 7),),
        detects=("attention_cap_missing", "attention_cap_hard", "attention_cap_50", "gelu_erf", "gelu_quick"),
    ),
    CaseRow(
        name="float32_scales/prefill/wide_experts",
        why="float32 scales make the expert matrices, products and activations float32 in a bf16 model",
        calls=(CallRow("prefill", (6, 3), 6),),
        detects=("top_k_off_by_one", "scales_interleaved"),
    ),
    CaseRow(
        name="float_weights/prefill/top_1",
        why="plain float matrices and a single chosen expert",
        calls=(CallRow("prefill", (6, 3), 6),),
        detects=("up_gate_swapped", "expert_transposed"),
    ),
    CaseRow(
        name="dense/decode/dense_block",
        why="a model without experts: one block, gelu in the compute dtype, no router",
        calls=(CallRow("prefill", (6, 3), 6), DECODE),
        detects=("silu_for_gelu", "relu_glu"),
    ),
    CaseRow(
        name="ties/prefill/exact_ties",
        why="experts with exactly equal scores: any order is accepted, the lowest index is the published one",
        calls=(CallRow("prefill", (7, 4), 7),),
        detects=("experts_permuted",),
    ),
    CaseRow(
        name="ties/prefill/tie_rule",
        why="the one case in which experts with exactly equal scores must come lowest index first, as published",
        calls=(CallRow("prefill", (5, 3), 5),),
        detects=("top_k_tie_highest_index",),
        tie_rule=True,
    ),
    CaseRow(
        name="square/prefill/padded_batch",
        why="two prompts of different lengths where the query and output matrices are square",
        calls=(CallRow("prefill", (5, 3), 5),),
        detects=("expert_transposed", "gates_renormalised"),
    ),
    CaseRow(
        name="square/decode/unequal_lengths",
        why="decoding from unequal lengths where the query and output matrices are square",
        calls=(CallRow("prefill", (3, 2), 3), DECODE, DECODE),
        detects=("decode_position_zero", "decode_position_plus_one"),
    ),
    CaseRow(
        name="square/prefill/pads_inside",
        why="pads between real tokens: their keys are masked in prefill, which engines without a pad token do not do",
        calls=(CallRow("prefill", (6,), 6, pads=((0, 2), (0, 4))),),
        detects=("padding_attended",),
    ),
    CaseRow(
        name="square_stress/prefill/saturated_cap",
        why="attention logits near the cap and activations in both tails of gelu, in the square shape",
        calls=(CallRow("prefill", (5, 3), 5),),
        detects=("attention_cap_missing", "gelu_erf"),
    ),
    CaseRow(
        name="long/decode/large_positions",
        why="positions beyond the integers of bf16 (256) and TF32 (2048), large values in the unused slots",
        calls=(CallRow("decode", (1, 1, 1), 1),),
        steps=(301, 2105, 4095),
        detects=("rope_position_bf16", "rope_position_tf32", "rope_base_wrong", "cache_unrotated_keys"),
    ),
)


def draw_call(row: CallRow, random: np.random.Generator, config: LanguageModelConfig) -> Call:
    """Draw the tokens of a call: real ids, the pad token beyond each length and at the pads inside."""
    shape = (len(row.lengths), row.num_tokens)
    tokens = random.integers(config.pad_token + 1, config.vocab_size, shape, dtype=np.int32)
    lengths = np.array(row.lengths, np.int32)
    tokens[np.arange(row.num_tokens) >= lengths[:, None]] = config.pad_token
    for position in row.pads:
        tokens[position] = config.pad_token
    return Call(row.kind, tokens, lengths)


def draw_cache(steps: tuple[int, ...], random: np.random.Generator, config: LanguageModelConfig, dtype: str) -> Cache:
    """Draw caches filled up to each row's step; a slot further on holds a large finite value."""
    sizes = config.axis_sizes
    shape = (config.model.num_layers, len(steps), *(sizes[axis] for axis in "sgh"))
    unused = (np.arange(sizes["s"]) >= np.array(steps)[:, None])[None, :, :, None, None]
    keys, values = (np.where(unused, LARGE, random.standard_normal(shape)).astype(DTYPES[dtype]) for _ in range(2))
    return Cache(keys, values, np.array(steps, np.int32))


def make_cases(row: CaseRow) -> Iterator[Case]:
    """Yield a row's case in each of its compute dtypes; the tokens are the same in all of them."""
    preset = row.name.split("/")[0]
    config = PRESETS[preset].config
    for dtype in row.fprop_dtypes:
        random = np.random.default_rng(zlib.crc32(row.name.encode()))
        calls = tuple(draw_call(call, random, config) for call in row.calls)
        yield Case(
            id=f"{row.name}.{dtype}",
            preset=preset,
            fprop_dtype=dtype,
            why=row.why,
            origin=PRODUCER,
            calls=calls,
            preload=draw_cache(row.steps, random, config, dtype) if row.steps else None,
            detects=row.detects,
            published_degenerate=row.published_degenerate,
            tie_rule=row.tie_rule,
        )


def suite_cases() -> tuple[Case, ...]:
    """Return every case of golden/v1."""
    return tuple(case for row in CASES for case in make_cases(row))
