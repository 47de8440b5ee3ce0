"""The ladder: narrow models in which one size stands at a border of tiles, blocks and pages, drawn from a seed.

Nothing of it is stored: the oracle judges it. A new border is a number of `BORDERS`, a new size a row of `SIZES`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from grok_conformance.harness.cases.case import CallKind, Case, Preset
from grok_conformance.harness.cases.drawn import FPROP_DTYPES, NARROW, ORIGIN, drawn_call, random_of
from grok_conformance.harness.cases.suite import varied
from grok_conformance.harness.cases.synthesis import Statistics, synthesize

BORDERS = (15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
"""Sizes at which engines change their way: tiles, blocks and pages of 16 to 256, one less and one more."""

PREFIX = "ladder_"
"""What the name of every rung's preset begins with."""

BATCHES = tuple(range(1, 10))

Calls = tuple[tuple[CallKind, tuple[int, ...]], ...]
"""The kind of every call and the real length of each row in it."""


@dataclass(frozen=True)
class Size:
    """One size of a request or of a model: its borders, the calls that meet one, and what changes in the model.

    `sentence` says of what there are as many as the border tells.
    """

    name: str
    sentence: str
    calls: Callable[[int], Calls]
    model: Callable[[int], dict[str, Any]] = lambda _border: {}
    borders: tuple[int, ...] = BORDERS


def short(_border: int) -> Calls:
    """Return a short prompt of two rows, and a step."""
    return ("prefill", (3, 2)), ("decode", (1, 1))


def prompt(border: int) -> Calls:
    """Return a prompt at the border beside a shorter one, and a step."""
    return ("prefill", (border, 3)), ("decode", (1, 1))


def one_prompt(border: int) -> Calls:
    """Return a prompt at the border, alone, and a step."""
    return ("prefill", (border,)), ("decode", (1,))


def cache(border: int) -> Calls:
    """Return steps that go over the border."""
    steps: Calls = (("decode", (1,)),) * 4
    return ("prefill", (border - 2,)), *steps


def chunks(border: int) -> Calls:
    """Return chunks of unequal sizes behind a prompt at the border, with steps between them."""
    return (
        ("prefill", (border,)),
        ("extend", (3,)),
        ("decode", (1,)),
        ("extend", (border,)),
        ("extend", (5,)),
        ("decode", (1,)),
    )


def rows(border: int) -> Calls:
    """Return as many rows, long and short ones side by side."""
    lengths = tuple(1 + 2 * row % 5 for row in range(border))
    return ("prefill", lengths), ("decode", (1,) * border)


def paired_heads(border: int) -> dict[str, Any]:
    """Return query heads up to the border, two to a key head."""
    return {"num_q_heads": border // 2 * 2, "num_kv_heads": border // 2}


SIZES = (
    Size("prompt", "tokens of a prompt", prompt),
    Size("cache", "steps in the cache when tokens are decoded", cache),
    Size("chunk", "tokens before, and in, a later chunk", chunks),
    Size("expert_tokens", "tokens of one expert", one_prompt, lambda _n: {"num_experts": 2, "num_selected_experts": 2}),
    Size("width", "channels of the model", short, lambda n: {"emb_size": n}),
    Size("hidden", "channels of an expert, to the next eighth", short, lambda n: {"widening_factor": n / 8}),
    Size("heads", "query heads, two to a key head", short, paired_heads),
    Size("vocabulary", "tokens of the vocabulary", short, lambda n: {"vocab_size": n}),
    Size("batch", "rows of a batch", rows, borders=BATCHES),
    Size("experts", "experts", short, lambda n: {"num_experts": n}, borders=(8, 9, 15, 16, 17, 64)),
    Size("layers", "layers", short, lambda n: {"num_layers": n}, borders=(2, 12)),
    Size("head_width", "channels of a head", short, lambda n: {"key_size": n}, borders=(16, 32, 34, 64, 66, 128, 130)),
)


@dataclass(frozen=True)
class Rung:
    """One size at one border: a drawn model and its case."""

    size: Size
    border: int
    preset: Preset
    case: Case


def rungs(seed: int) -> Iterator[Rung]:
    """Yield every rung, in one compute dtype of two by turns; which has which depends on the seed."""
    placed = [(size, border) for size in SIZES for border in size.borders]
    for number, (size, border) in enumerate(placed):
        yield make_rung(size, border, FPROP_DTYPES[(number + seed) % 2], seed)


def is_rung(case_id: str) -> bool:
    """Return whether a case is one of the ladder."""
    return case_id.startswith(PREFIX)


def make_rung(size: Size, border: int, fprop_dtype: str, seed: int) -> Rung:
    """Draw the model and the case of one rung."""
    name = f"{PREFIX}{size.name}_{border}"
    calls = size.calls(border)
    num_steps = max(sum(lengths) for lengths in zip(*(lengths for _, lengths in calls), strict=True))
    config = varied(**{"vocab_size": 23, **NARROW, "sequence_len": num_steps + 1, **size.model(border)})
    random = random_of(name, seed)
    statistics = Statistics(seed=zlib.crc32(f"{name} {seed}".encode()), num_groups=4, router_deviation=3)
    case = Case(
        id=f"{name}/ladder/drawn~redrawn-{seed}.{fprop_dtype}",
        preset=name,
        fprop_dtype=fprop_dtype,
        why=f"{border} {size.sentence}",
        origin=ORIGIN,
        calls=tuple(drawn_call(kind, lengths, config, random) for kind, lengths in calls),
    )
    return Rung(size, border, Preset(name, config, synthesize(config, statistics)), case)
