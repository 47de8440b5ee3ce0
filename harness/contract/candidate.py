"""What a candidate module has: `INFO`, what it says of itself, and `load`, which returns the model that is asked.

A candidate imports this module, NumPy and its own engine, and nothing else of the harness.
The contract on taps is data: `golden/schema/taps.json`. A process may import a candidate once and load many models, one
after the other: what its module keeps must not pass from one to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Weights = Mapping[str, Array]
"""Stored tensors by name: `module_path/name`; a quantised leaf is `….weight` (int8) and `….scales` (SPEC §2)."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "int32": np.dtype(np.int32),
}
"""The dtypes that a tap may have, by the names used in every file."""


class Unsupported(Exception):  # noqa: N818 - an answer of the candidate, not an error of the harness
    """Raised by a candidate that cannot run a configuration; the message is the reason shown to the reader."""


@dataclass(frozen=True, kw_only=True)
class LogitForm:
    """What a candidate gives as the tap `logits`, for engines that do not show all of them.

    `log_probabilities` are float32 [b, t, v], the logarithms of the softmax; with `top` those of the so many most
    probable tokens, NaN or -inf elsewhere, which says that the others are no more probable. `tokens` are int [b, t],
    the most probable token after each. At `last` positions only the last real one of each row is shown: t is 1.
    """

    kind: Literal["logits", "log_probabilities", "tokens"] = "logits"
    positions: Literal["all", "last"] = "all"
    top: int | None = None

    def __str__(self) -> str:
        """Return the form in words: `top 20 log probabilities, last position`."""
        kind = {"logits": "all logits", "log_probabilities": "log probabilities", "tokens": "greedy tokens"}[self.kind]
        kind = kind if self.top is None else f"top {self.top} {kind}"
        return kind if self.positions == "all" else f"{kind}, last position"


ALL_LOGITS = LogitForm()


@dataclass(frozen=True, kw_only=True)
class CandidateInfo:
    """What a candidate says of itself.

    `taps` are glob patterns of the taps it shows. `dtypes` maps tap globs to the dtype recorded there, the first
    match winning; `fprop` stands for the configuration's fprop_dtype, and a tap that nothing matches has the dtype
    of the contract. What experts compute may be shown in `fprop` without a word: its values say how it was rounded.
    `fprop_dtypes` are the compute dtypes it can run. `fused` says that a compiler fuses operations, so that taps
    may be mere records of what flowed; unrounded values that can be recomputed are found without it. `logits` is
    the form in which it shows those. `quantised` maps globs of taps to how their operations quantise what they multiply
    or, of a cache, keep (`QUANTISATIONS`), the first match winning: it is judged by that, and not as published.
    `tie_rule` claims that experts with equal scores come lowest index first.
    """

    name: str
    version: str
    taps: tuple[str, ...] = ("*",)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    fprop_dtypes: tuple[str, ...] = ("float32", "bfloat16")
    fused: bool = False
    logits: LogitForm = ALL_LOGITS
    tie_rule: bool = False
    quantised: Mapping[str, str] = field(default_factory=dict)


QUANTISATIONS: Mapping[str, str] = {
    "int8": "int8 with a scale per token, or per token and head",
    "int8_block32": "int8 in blocks of 32, each with a float16 scale",
    "fp8": "fp8 (e4m3) with a scale per token, or per token and head",
    "fp8_unscaled": "fp8 (e4m3) without a scale",
}
"""What INFO may say of operands in fewer bits, and the words that reports have for it."""


class Model(Protocol):
    """A loaded candidate. Each call returns `{tap name: array}` for the wanted taps, with the axes of the contract.

    The cache has `config.sequence_len` slots; the key axis s of a tap may be shorter or longer than that as long as it
    holds every visible slot; where tokens are padding a tap may hold anything, and so a flat or ragged engine zeros.
    Rows of a batch are independent, each with its own step. `prefill` and `decode` are required; a candidate without
    `extend` or `preload` is `unsupported` in the cases that need them, one without `truncate` may be.
    """

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run tokens int32 [b, t], padded beyond lengths int32 [b], from a fresh cache; steps become lengths."""
        ...

    def decode(self, tokens: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run one more token per row, int32 [b, 1], at each row's step; steps grow by one."""
        ...


class ExtendingModel(Model, Protocol):
    """A model that can also continue a cache by several tokens at once."""

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run a further chunk int32 [b, t] at each row's step; steps grow by lengths int32 [b]."""
        ...


class PreloadingModel(Model, Protocol):
    """A model that can start from a given cache."""

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Set the caches of all layers: keys and values [layer, b, s, g, h] (keys after RoPE), steps int32 [b]."""
        ...


class TruncatingModel(Model, Protocol):
    """A model that can forget the end of each row, as after drafts that were rejected."""

    def truncate(self, steps: Array) -> None:
        """Cut each row's cache back to steps int32 [b], none above its own; the next call continues from there."""
        ...


class WeightShowingModel(Model, Protocol):
    """A model that gives back its weights, to be compared with the stored ones before any tap.

    Likewise optional are two functions of the module: `dequantize(weight, scales)`, which returns the matrix [.., k, n]
    of int8 [.., k, n] and scales [.., G, n], and `partition_specs(config)`, which returns for every parameter its mesh
    axes per dimension. Of models above 1 GiB no weights are asked for.
    """

    def loaded_weights(self) -> Mapping[str, Array]:
        """Return any of the parameters by stored name; a quantised matrix in its parts or dequantised, as `…/w`."""
        ...
