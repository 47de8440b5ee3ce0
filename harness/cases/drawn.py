"""Cases drawn again from a seed: stored ones with other tokens, and with other weights too.

They keep sizes, lengths and pads, so that compiled programs serve both, and have no golden values: the oracle judges
them. A port that returns what it remembers, of the golden set or of an earlier request of the same shape, fails.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from grok_conformance.harness.cases.case import Cache, Call, CallKind, Case, Preset, steps_before
from grok_conformance.harness.contract import Array, LanguageModelConfig

ORIGIN = "drawn"

FPROP_DTYPES = ("float32", "bfloat16")

NARROW: dict[str, Any] = {
    "emb_size": 12,
    "widening_factor": 2,
    "key_size": 4,
    "num_q_heads": 2,
    "num_kv_heads": 1,
    "num_layers": 1,
    "num_experts": 3,
    "num_selected_experts": 2,
}
"""A decoder that is narrow in every axis: d 12, f 16, q·h 8. Drawn models widen what they are about."""

Kind = Literal["redrawn", "reweighted"]
"""What was drawn: the tokens and the preloaded cache, or the weights as well."""

_MARK = re.compile(r"[~-](redrawn|reweighted)-(\d+)")  # in a folder's name every mark is a dash


def drawn_id(case_id: str, kind: Kind, seed: int) -> str:
    """Return the id of a stored case drawn again: `unequal/prefill/padded_batch~redrawn-7.float32`."""
    name, _, dtype = case_id.rpartition(".")
    return f"{name}~{kind}-{seed}.{dtype}"


def stored_id(case_id: str) -> str:
    """Return the id of the stored case from which one was drawn, or its own."""
    return _MARK.sub("", case_id)


def drawn_as(case_id: str) -> tuple[Kind, int] | None:
    """Return what was drawn for a case, and from which seed; None for a stored one."""
    found = _MARK.search(case_id)
    if found is None:
        return None
    return ("redrawn" if found[1] == "redrawn" else "reweighted"), int(found[2])


def random_of(case_id: str, seed: int) -> np.random.Generator:
    """Return the source of all that is drawn for a stored case: it does not depend on which others are."""
    return np.random.default_rng((seed, zlib.crc32(case_id.encode())))


def redraw(case: Case, config: LanguageModelConfig, seed: int, kind: Kind = "redrawn") -> Case:
    """Return a case with other real tokens and other values in a preloaded cache.

    A case of one call gets a decoding step where the cache has room: its last call shows what the first one left.
    """
    random = random_of(case.id, seed)
    calls = tuple(replace(call, tokens=other_tokens(call.tokens, config, random)) for call in case.calls)
    steps = steps_before(case, 0) + calls[0].lengths
    if len(calls) == 1 and steps.max() < config.sequence_len:
        token = random.integers(config.pad_token + 1, config.vocab_size, (len(steps), 1)).astype(np.int32)
        calls = (*calls, Call("decode", token, np.ones(len(steps), np.int32)))
    why = f"as {case.id}, with other tokens{' and weights' * (kind == 'reweighted')}: nothing stored is of any use"
    preload = None if case.preload is None else other_cache(case.preload, random)
    return replace(
        case, id=drawn_id(case.id, kind, seed), why=why, origin=ORIGIN, calls=calls, preload=preload, detects=()
    )


def other_tokens(tokens: Array, config: LanguageModelConfig, random: np.random.Generator) -> Array:
    """Return tokens int32 [b, t] drawn again, pads where there were some."""
    drawn = random.integers(config.pad_token + 1, config.vocab_size, tokens.shape)
    return np.where(tokens <= config.pad_token, tokens, drawn).astype(np.int32)


def other_cache(cache: Cache, random: np.random.Generator) -> Cache:
    """Return a cache with other values in the slots that are visible; the others stay as they are."""
    visible = np.arange(cache.keys.shape[2]) < np.asarray(cache.steps)[:, None]

    def drawn(x: Array) -> Array:
        values = random.standard_normal(x.shape).astype(x.dtype)
        return np.where(visible[None, :, :, None, None], values, x)

    return Cache(drawn(cache.keys), drawn(cache.values), cache.steps)


def reweight(preset: Preset, seed: int) -> Preset:
    """Return a model of the same statistics and other values: the output columns of every matrix in another order."""

    def permuted(name: str, x: Array) -> Array:
        module = name.removesuffix(".weight").removesuffix(".scales")
        return np.ascontiguousarray(x[..., random_of(module, seed).permutation(x.shape[-1])])

    weights: Mapping[str, Array] = {name: permuted(name, np.asarray(x)) for name, x in preset.weights.items()}
    return replace(preset, weights=weights)


def drawn_call(
    kind: CallKind, lengths: Sequence[int], config: LanguageModelConfig, random: np.random.Generator
) -> Call:
    """Draw the tokens of a call, padded to its longest row."""
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    tokens = draw_tokens(random, real.shape, config)
    return Call(kind, np.where(real, tokens, config.pad_token).astype(np.int32), np.array(lengths, np.int32))


def draw_tokens(random: np.random.Generator, shape: tuple[int, ...], config: LanguageModelConfig) -> Array:
    """Draw real tokens int32."""
    return random.integers(config.pad_token + 1, config.vocab_size, shape).astype(np.int32)
