"""Drawn models and inputs: a handful of sizes and a seed, from which all else follows.

A draw is plain data that a command line can spell, so that a counterexample is reproduced by its text, and smaller
draws are made by making one size smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from grok_conformance.harness.cases.case import Call, Preset
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import Array, LanguageModelConfig, TransformerConfig, ffn_size
from grok_conformance.harness.contract.grok_1 import PUBLISHED
from grok_conformance.harness.formats.files import FileError

PRESET = "drawn"
MORE_SLOTS = 4
"""Cache slots beyond a sequence: room for right padding."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The sizes of a model and of a batch of sequences, and the seed of weights and tokens.

    `scales_dtype` "none" stores plain float32 matrices. Sequences have `num_tokens` + 1 tokens; prompts are shorter.
    """

    seed: int = 0
    fprop_dtype: str = "float32"
    scales_dtype: str = "none"
    num_layers: int = 1
    num_kv_heads: int = 1
    heads_per_kv_head: int = 1
    key_size: int = 2
    emb_size: int = 4
    widening_factor: int = 2
    num_experts: int = 2
    num_selected_experts: int = 1
    num_groups: int = 1
    vocab_size: int = 8
    batch_size: int = 1
    num_tokens: int = 2

    def __str__(self) -> str:
        """Return the draw as `--draw` takes it: what differs from the smallest one."""
        smallest = asdict(Draw())
        return (
            " ".join(f"{name}={value}" for name, value in asdict(self).items() if value != smallest[name]) or "seed=0"
        )


SMALLEST = Draw()


def parse_draw(text: str) -> Draw:
    """Read a draw from what `str` makes of it; raises FileError naming what is wrong."""
    kinds = {field.name: type(getattr(SMALLEST, field.name)) for field in fields(Draw)}
    values = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in kinds or (kinds[name] is int and not value.isdecimal()):
            raise FileError(f"--draw {text!a}: {word!a} is not SIZE=NUMBER; sizes are {', '.join(kinds)}")
        values[name] = kinds[name](value)
    draw = Draw(**values)
    if fitted(draw) != draw:
        raise FileError(f"--draw {text!a}: no such model; one near it is {str(fitted(draw))!a}")
    return draw


def draw_model(seed: int) -> Draw:
    """Draw sizes of which no two need agree.

    Every second model is a mixture with heads as wide as the model, as some engines ask; every second one computes in
    float32, where rounding hides least.
    """
    random = np.random.default_rng(seed)

    def between(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    draw = Draw(
        seed=seed,
        fprop_dtype="float32" if seed % 4 in (0, 3) else "bfloat16",
        scales_dtype=str(random.choice(["bfloat16", "float32", "none"])),
        num_layers=between(1, 2),
        num_kv_heads=between(1, 3),
        heads_per_kv_head=between(1, 3),
        key_size=2 * between(1, 4),
        emb_size=between(8, 40),
        widening_factor=between(2, 4),
        num_experts=between(1 if seed % 2 else 2, 6),
        num_selected_experts=between(1, 6),
        num_groups=2 ** between(0, 3),
        vocab_size=between(8, 64),
        batch_size=between(1, 3),
        num_tokens=between(2, 8),
    )
    heads = draw.num_kv_heads * draw.heads_per_kv_head * draw.key_size
    return fitted(draw if seed % 2 else replace(draw, emb_size=heads))


def drawn(num_draws: int) -> tuple[Draw, ...]:
    """Return the first draws."""
    return tuple(draw_model(seed) for seed in range(num_draws))


def fitted(draw: Draw) -> Draw:
    """Return the draw with sizes that a model can have, no larger than they were or the smallest there are."""
    sizes: dict[str, Any] = {
        name: max(value, getattr(SMALLEST, name))
        for name, value in asdict(draw).items()
        if isinstance(value, int) and name not in ("seed", "num_experts")
    }
    draw = replace(draw, **sizes, num_experts=max(draw.num_experts, 1))
    heads = draw.num_kv_heads * draw.heads_per_kv_head * (key_size := draw.key_size // 2 * 2)
    rows = math.gcd(heads, ffn_size(draw.emb_size, draw.widening_factor))
    return replace(
        draw,
        key_size=key_size,
        num_selected_experts=min(draw.num_selected_experts, draw.num_experts),
        num_groups=1 if draw.scales_dtype == "none" else math.gcd(draw.num_groups, rows),
    )


def smaller(draw: Draw) -> Iterator[Draw]:
    """Yield draws with one size smaller: the least, or failing that half way to it, or one less."""
    seen = {draw}
    for name, value in asdict(draw).items():
        least = 1 if name == "num_experts" else getattr(SMALLEST, name)
        steps = [least] if isinstance(value, str) else sorted({least, (least + value) // 2, value - 1})
        for step in [] if name == "seed" else steps:
            change: dict[str, Any] = {name: step}
            tried = fitted(replace(draw, **change))
            if tried not in seen and (isinstance(value, str) or least <= step < value):
                seen.add(tried)
                yield tried


def smallest_of(draw: Draw, others: Sequence[Draw]) -> Draw:
    """Return the draw with every size that is smaller in another one as small as it is in any of them."""
    sizes: dict[str, Any] = asdict(draw)
    for other in map(asdict, others):
        sizes |= {name: value for name, value in other.items() if value != asdict(draw)[name]}
    return fitted(replace(draw, **sizes))


def config_of(draw: Draw) -> LanguageModelConfig:
    """Return the drawn configuration; multipliers are Grok-1's."""
    return LanguageModelConfig(
        model=TransformerConfig(
            emb_size=draw.emb_size,
            widening_factor=float(draw.widening_factor),
            key_size=draw.key_size,
            num_q_heads=draw.num_kv_heads * draw.heads_per_kv_head,
            num_kv_heads=draw.num_kv_heads,
            num_layers=draw.num_layers,
            attn_output_multiplier=draw.key_size**-0.5,
            num_experts=draw.num_experts,
            num_selected_experts=draw.num_selected_experts,
        ),
        vocab_size=draw.vocab_size,
        pad_token=0,
        eos_token=2,
        sequence_len=draw.num_tokens + 1 + MORE_SLOTS,
        embedding_multiplier_scale=PUBLISHED.embedding_multiplier_scale,
        output_multiplier_scale=PUBLISHED.output_multiplier_scale,
        fprop_dtype=draw.fprop_dtype,
    )


def preset_of(draw: Draw) -> Preset:
    """Return the drawn model: queries that reach the cap, routing that is mostly decided."""
    config = config_of(draw)
    statistics = Statistics(
        seed=draw.seed,
        num_groups=draw.num_groups,
        scales_dtype=None if draw.scales_dtype == "none" else draw.scales_dtype,
        query_gain=3.0,
        router_deviation=4.0,
    )
    return Preset(PRESET, config, synthesize(config, statistics))


def sequences_of(draw: Draw) -> Array:
    """Return the drawn sequences, int32 [b, num_tokens + 1], without pads."""
    random = np.random.default_rng((draw.seed, 1))
    return random.integers(1, draw.vocab_size, (draw.batch_size, draw.num_tokens + 1)).astype(np.int32)


def prompt_lengths(draw: Draw) -> Array:
    """Return how many tokens of each sequence are the prompt, int32 [b]: one has all but the last token."""
    random = np.random.default_rng((draw.seed, 2))
    lengths = random.integers(1, draw.num_tokens + 1, draw.batch_size)
    lengths[int(random.integers(draw.batch_size))] = draw.num_tokens
    return lengths.astype(np.int32)


def prefill(sequences: Array, lengths: Array, num_positions: int) -> Call:
    """Return the call that prefills each row's first tokens, padded on the right to `num_positions`."""
    tokens = np.zeros((len(sequences), num_positions), np.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = sequences[row, :length]
    return Call("prefill", tokens, lengths.astype(np.int32))


def decode(sequences: Array, steps: Array) -> Call:
    """Return the call that decodes each row's token at its step."""
    tokens = sequences[np.arange(len(sequences)), steps][:, None]
    return Call("decode", tokens.astype(np.int32), np.ones(len(sequences), np.int32))


def prompt_and_step(draw: Draw, sequences: Array) -> tuple[Call, ...]:
    """Return the calls from which every law starts: a prefill of unequal prompts, and one decoded token."""
    lengths = prompt_lengths(draw)
    return prefill(sequences, lengths, draw.num_tokens), decode(sequences, lengths)
