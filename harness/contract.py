"""What a candidate and the harness agree on: the configuration, the taps, and the two names of a candidate module.

A candidate imports this module, NumPy and its own engine, and nothing else of the harness.
The contract on taps is data: `golden/schema/taps.json`.
"""

from __future__ import annotations

import fnmatch
import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Weights = Mapping[str, Array]
"""Stored tensors by name: `module_path/name`; a quantised leaf is `….weight` (int8) and `….scales` (SPEC §2)."""

GOLDEN_DIR = Path(__file__).resolve().parent.parent / "golden"

DTYPES: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "int32": np.dtype(np.int32),
}
"""The dtypes that a tap may have, by the names used in every file."""


class Unsupported(Exception):  # noqa: N818 - an answer of the candidate, not an error of the harness
    """Raised by a candidate that cannot run a configuration; the message is the reason shown to the reader."""


def ffn_size(emb_size: int, widening_factor: float) -> int:
    """Return the hidden width f of an expert, a multiple of 8 (SPEC §1)."""
    size = int(widening_factor * emb_size) * 2 // 3
    return size + (8 - size) % 8


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The decoder's configuration under its published names (SPEC §1)."""

    emb_size: int
    widening_factor: float
    key_size: int
    num_q_heads: int
    num_kv_heads: int
    num_layers: int
    attn_output_multiplier: float
    num_experts: int
    num_selected_experts: int
    shard_activations: bool = True
    data_axis: str = "data"
    model_axis: str = "model"


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The model's configuration under its published names (SPEC §1); `sequence_len` is the length of the KV cache."""

    model: TransformerConfig
    vocab_size: int
    pad_token: int
    eos_token: int
    sequence_len: int
    embedding_multiplier_scale: float
    output_multiplier_scale: float
    fprop_dtype: str

    @property
    def dense(self) -> bool:
        """Whether the feed-forward block has no experts and no router."""
        return self.model.num_experts <= 1

    @property
    def axis_sizes(self) -> dict[str, int]:
        """Sizes of the axes that the configuration fixes, by axis letter (s, d, q, g, r, h, e, c, f, v)."""
        m = self.model
        return {
            "s": self.sequence_len,
            "d": m.emb_size,
            "q": m.num_q_heads,
            "g": m.num_kv_heads,
            "r": m.num_q_heads // m.num_kv_heads,
            "h": m.key_size,
            "e": m.num_experts,
            "c": m.num_selected_experts,
            "f": ffn_size(m.emb_size, m.widening_factor),
            "v": self.vocab_size,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the nested dictionary that `config.json` holds; real numbers travel as strings."""
        return {key: _stringify(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LanguageModelConfig:
        """Build a configuration from `config.json`; raises TypeError for unknown or missing fields."""
        fields: dict[str, Any] = {key: float(value) if key in _REALS else value for key, value in data.items()}
        if "model" in data:
            model: dict[str, Any] = {
                key: float(value) if key in _REALS else value for key, value in data["model"].items()
            }
            fields["model"] = TransformerConfig(**model)
        return cls(**fields)


_REALS = {"widening_factor", "attn_output_multiplier", "embedding_multiplier_scale", "output_multiplier_scale"}


def _stringify(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: _stringify(item) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class TapSpec:
    """One row of `golden/schema/taps.json`: a tap's name (`layers.*.` for per-layer taps), axes and dtype."""

    name: str
    axes: tuple[str, ...]
    dtype: str
    level: str
    block: str
    compared: str
    meaning: str

    @property
    def operation(self) -> str:
        """The name without the layer, which is also the name of the operation that makes it."""
        return self.name.removeprefix("layers.*.")

    @property
    def per_layer(self) -> bool:
        """Whether every layer has one."""
        return self.name.startswith("layers.*.")


LEVELS = ("logits", "routes", "layers", "caches")


@functools.cache
def tap_specs() -> tuple[TapSpec, ...]:
    """Return the contract on taps, in the order in which the forward pass makes them."""
    rows = json.loads((GOLDEN_DIR / "schema" / "taps.json").read_text())["taps"]
    return tuple(TapSpec(**{**row, "axes": tuple(row["axes"])}) for row in rows)


def split_tap(name: str) -> tuple[int | None, str]:
    """Split `layers.03.router.logits` into (3, "router.logits") and `logits` into (None, "logits")."""
    if not name.startswith("layers."):
        return None, name
    _, layer, operation = name.split(".", 2)
    return int(layer), operation


def tap_name(layer: int | None, operation: str) -> str:
    """Join a layer index and an operation into a tap name; layers have two digits or more."""
    return operation if layer is None else f"layers.{layer:02d}.{operation}"


def tap_names(config: LanguageModelConfig) -> tuple[str, ...]:
    """Return every tap of a configuration, in the order in which the forward pass makes them."""
    block = "dense" if config.dense else "moe"
    specs = [spec for spec in tap_specs() if spec.block in ("always", block)]
    first = next(i for i, spec in enumerate(specs) if spec.per_layer)
    last = max(i for i, spec in enumerate(specs) if spec.per_layer) + 1
    layers = (tap_name(layer, spec.operation) for layer in range(config.model.num_layers) for spec in specs[first:last])
    return (*(s.name for s in specs[:first]), *layers, *(s.name for s in specs[last:]))


def select_taps(names: Collection[str], patterns: Collection[str] | None) -> tuple[str, ...]:
    """Return the names that match any of the glob patterns, in their order; None selects all."""
    if patterns is None:
        return tuple(names)
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


@dataclass(frozen=True, kw_only=True)
class CandidateInfo:
    """What a candidate says of itself.

    `taps` are glob patterns of the taps it shows. `dtypes` maps tap globs to the dtype recorded there, the first match
    winning; `fprop` stands for the configuration's fprop_dtype, and a tap that nothing matches has the dtype of the
    contract. `fprop_dtypes` are the compute dtypes it can run. `fused` says that a compiler fuses operations, so that
    what flows between them may be more precise than the taps show.
    """

    name: str
    version: str
    taps: tuple[str, ...] = ("*",)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    fprop_dtypes: tuple[str, ...] = ("float32", "bfloat16")
    fused: bool = False


class Model(Protocol):
    """A loaded candidate. Each call returns `{tap name: array}` for the wanted taps, with the axes of the contract.

    The cache has `config.sequence_len` slots; the key axis s of a tap may be shorter or longer than that as long as it
    holds every visible slot. Rows of a batch are independent, each with its own step. `prefill` and `decode` are
    required; a candidate without `extend` or `preload` is `unsupported` in the cases that need them.
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


class WeightShowingModel(Model, Protocol):
    """A model that gives back its weights, to be compared with the stored ones before any tap.

    Likewise optional are two functions of the module: `dequantize(weight, scales)`, which returns the matrix [.., k, n]
    of int8 [.., k, n] and scales [.., G, n], and `partition_specs(config)`, which returns for every parameter its mesh
    axes per dimension. Of models above 1 GiB no weights are asked for.
    """

    def loaded_weights(self) -> Mapping[str, Array]:
        """Return any of the parameters by stored name; a quantised matrix in its parts or dequantised, as `…/w`."""
        ...
