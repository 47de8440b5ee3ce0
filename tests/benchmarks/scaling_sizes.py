"""The sizes over which the harness is measured: one model and prompt, and what of it grows while all else stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.cases.case import Call, Case, Preset
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import (
    Array,
    CandidateInfo,
    LanguageModelConfig,
    TransformerConfig,
    tap_names,
)

NUM_HEADS, NUM_KV_HEADS, NUM_EXPERTS, VOCABULARY = 4, 2, 4, 256


@dataclass(frozen=True)
class Size:
    """A model of `width` channels and some layers, a prompt that fills its cache, and of its taps one in `every`."""

    tokens: int = 64
    layers: int = 1
    width: int = 128
    every: int = 1

    @property
    def config(self) -> LanguageModelConfig:
        """The configuration, in float32: a head is as wide as the heads leave it, an expert as in Grok-1."""
        key_size = self.width // NUM_HEADS
        model = TransformerConfig(
            emb_size=self.width,
            widening_factor=8,
            key_size=key_size,
            num_q_heads=NUM_HEADS,
            num_kv_heads=NUM_KV_HEADS,
            num_layers=self.layers,
            attn_output_multiplier=key_size**-0.5,
            num_experts=NUM_EXPERTS,
            num_selected_experts=2,
        )
        return LanguageModelConfig(
            model=model,
            vocab_size=VOCABULARY,
            pad_token=0,
            eos_token=2,
            sequence_len=self.tokens,
            embedding_multiplier_scale=78.38367176906169,
            output_multiplier_scale=0.5773502691896257,
            fprop_dtype="float32",
        )

    @property
    def taps(self) -> tuple[str, ...]:
        """The taps that are shown, spread over the model, the logits always among them."""
        names = tap_names(self.config)
        return tuple(names[:: -self.every][::-1])

    @property
    def prompt(self) -> Array:
        """The prompt, int32 [1, t], pads excluded."""
        return np.random.default_rng(1).integers(1, VOCABULARY, (1, self.tokens)).astype(np.int32)


BASE = Size()

AXES: Mapping[str, tuple[Size, ...]] = {
    "tokens": tuple(replace(BASE, tokens=n) for n in (32, 64, 128, 256)),
    "layers": tuple(replace(BASE, layers=n) for n in (1, 2, 4, 8)),
    "width": tuple(replace(BASE, width=n) for n in (64, 128, 256, 512)),
    "taps": tuple(replace(BASE, every=n) for n in (16, 8, 4, 2)),
}
"""What grows, and the sizes over which it does, from the least to the largest; of the taps some are always hidden."""


def extent(axis: str, size: Size) -> int:
    """Return how large a size is along what grows."""
    return len(size.taps) if axis == "taps" else int(getattr(size, axis))


def preset_of(size: Size) -> Preset:
    """Return the model of a size with weights drawn for it."""
    return Preset("scaling", size.config, synthesize(size.config, Statistics(seed=8)))


def case_of(size: Size, number: int = 0) -> Case:
    """Return the case of a size: its prompt, in one call; `number` tells equal ones apart."""
    call = Call("prefill", size.prompt, np.array([size.tokens], np.int32))
    name = f"scaling/prefill/c{number:03d}.float32"
    return Case(id=name, preset="scaling", fprop_dtype="float32", why="", origin="", calls=(call,))


def info_of(size: Size) -> CandidateInfo:
    """Return what a candidate says of itself that shows the taps of a size."""
    return CandidateInfo(name="reference", version="", taps=size.taps, tie_rule=True)
