"""Honest ways to compute Grok-1: one row per variant, which must pass whatever its weights and tokens are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Model, Weights
from tests.fault_detection.numpy_port import (
    Arithmetic,
    NumpyModel,
    backwards,
    blocked,
    forwards,
    ordered,
    shuffled,
    wide,
)

DEVICES = "--xla_force_host_platform_device_count=8"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):  # read by JAX when it is first used
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()

FUSED = CandidateInfo(name="honest", version="1", fused=True)

Load = Callable[[LanguageModelConfig, Weights], Model]


class Variant(NamedTuple):
    """An honest candidate: how it is loaded, and what it says of itself.

    `engine` is `numpy`, `torch` or `jax`, or `inductor` for compiled torch; the last two take seconds for each shape.
    """

    engine: str
    load: Load
    info: CandidateInfo = CandidateInfo(name="honest", version="1")


def in_numpy(arithmetic: Arithmetic) -> Variant:
    """Return the NumPy port with some arithmetic."""
    return Variant("numpy", lambda config, weights: NumpyModel(config, weights, arithmetic))


# The reference


@dataclass
class Managed:
    """A model of which every call runs in a context."""

    model: Any
    context: Callable[[], contextlib.AbstractContextManager[Any]]

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run tokens from an empty cache."""
        with self.context():
            made: Mapping[str, Array] = self.model.prefill(tokens, lengths, taps)
        return made

    def decode(self, tokens: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run one more token per row."""
        with self.context():
            made: Mapping[str, Array] = self.model.decode(tokens, taps)
        return made


def on_mesh(shape: tuple[int, int]) -> Variant:
    """Return the reference on a mesh of (data, model) shards."""

    def load(config: LanguageModelConfig, weights: Weights) -> Model:
        import reference  # noqa: PLC0415 - an engine is imported when it is used
        from grok_conformance.candidates.reference import load as load_on  # noqa: PLC0415 - an engine is imported when it is used

        return load_on(config, weights, reference.make_mesh(shape))

    return Variant("jax", load)


def op_by_op() -> Variant:
    """Return the reference without compilation."""

    def load(config: LanguageModelConfig, weights: Weights) -> Model:
        import jax  # noqa: PLC0415 - an engine is imported when it is used

        from grok_conformance.candidates import reference  # noqa: PLC0415 - an engine is imported when it is used

        return Managed(reference.load(config, weights), jax.disable_jit)

    return Variant("jax", load)


def unpinned() -> Variant:
    """Return the reference with its roundings left to the compiler."""

    def load(config: LanguageModelConfig, weights: Weights) -> Model:
        from grok_conformance.candidates import reference  # noqa: PLC0415 - an engine is imported when it is used

        return replace(reference.load(config, weights), pin_rounding=False)

    return Variant("jax", load, FUSED)


def eager() -> Variant:
    """Return eager torch."""

    def load(config: LanguageModelConfig, weights: Weights) -> Model:
        from grok_conformance.candidates import torch_eager  # noqa: PLC0415 - an engine is imported when it is used

        return torch_eager.load(config, weights)

    return Variant("torch", load)


def compiled() -> Variant:
    """Return torch compiled by inductor, told to round wherever eager execution does."""

    def load(config: LanguageModelConfig, weights: Weights) -> Model:
        from grok_conformance.candidates import torch_compiled  # noqa: PLC0415 - an engine is imported when it is used

        return torch_compiled.load(config, weights)

    return Variant("inductor", load)


def freely_compiled() -> Variant:
    """Return torch compiled by inductor as it comes, which keeps float32 between the operations that it fuses."""

    def load(config: LanguageModelConfig, weights: Weights) -> Model:
        import torch  # noqa: PLC0415 - an engine is imported when it is used

        from grok_conformance.candidates import torch_compiled  # noqa: PLC0415 - likewise

        model = torch_compiled.load(config, weights)
        model.run_layer = torch.compile(torch_compiled.run_layer)
        return model

    return Variant("inductor", load, FUSED)


KEPT = Arithmetic(weights_rounded=False, inner_rounded=False, multiplier_rounded=False)

VARIANTS: Mapping[str, Variant] = {
    "sums by the BLAS": in_numpy(Arithmetic()),
    "sums in float64": in_numpy(Arithmetic(product=wide)),
    "sums one after the other": in_numpy(Arithmetic(product=ordered(forwards))),
    "sums in reverse": in_numpy(Arithmetic(product=ordered(backwards))),
    "sums in a random order": in_numpy(Arithmetic(product=ordered(shuffled))),
    "sums in blocks of 3": in_numpy(Arithmetic(product=blocked(3))),
    "sums in blocks of 8": in_numpy(Arithmetic(product=blocked(8))),
    "2 partial sums rounded": in_numpy(Arithmetic(shards=2)),
    "4 partial sums rounded": in_numpy(Arithmetic(shards=4)),
    "8 partial sums rounded": in_numpy(Arithmetic(shards=8)),
    "int8 times scale not rounded": in_numpy(Arithmetic(weights_rounded=False)),
    "inner values not rounded": in_numpy(Arithmetic(inner_rounded=False)),
    "multipliers not rounded": in_numpy(Arithmetic(multiplier_rounded=False)),
    "nothing inside rounded": in_numpy(KEPT),
    "nothing inside rounded, sums in float64": in_numpy(replace(KEPT, product=wide)),
    "ties to the highest index": in_numpy(Arithmetic(lowest_first=False)),
    "torch eager": eager(),
    "reference on (1, 1)": on_mesh((1, 1)),
    "reference on (1, 2)": on_mesh((1, 2)),
    "reference on (1, 4)": on_mesh((1, 4)),
    "reference on (2, 1)": on_mesh((2, 1)),
    "reference on (2, 2)": on_mesh((2, 2)),
    "reference op by op": op_by_op(),
    "reference, roundings left to the compiler": unpinned(),
    "torch compiled": compiled(),
    "torch compiled, roundings left to the compiler": freely_compiled(),
}
