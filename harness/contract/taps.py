"""The taps: what the contract, `golden/schema/taps.json`, says of each, and their names in a model."""

from __future__ import annotations

import fnmatch
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.contract.configuration import LanguageModelConfig

GOLDEN_DIR = Path(__file__).resolve().parents[2] / "golden"

GOLDEN = GOLDEN_DIR / "v1"
"""The golden set that comes along."""

MANIFEST = "manifest.json"
"""The file of a golden set that tells all others; named here, where reading it needs no NumPy."""


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


NUM_KEPT = 1 << 14
"""Names of taps that are kept taken apart and put together: more than the largest model has."""

ALL = "*"
GLOB = frozenset("*?[")
"""What makes a pattern of a name."""

LOGITS = "logits"
"""The tap in which a language model ends; a candidate may show it in other forms (`LogitForm`)."""

LEVELS = (LOGITS, "routes", "layers", "caches")


@functools.cache
def tap_specs() -> tuple[TapSpec, ...]:
    """Return the contract on taps, in the order in which the forward pass makes them."""
    rows = json.loads((GOLDEN_DIR / "schema" / "taps.json").read_text())["taps"]
    return tuple(TapSpec(**{**row, "axes": tuple(row["axes"])}) for row in rows)


@functools.lru_cache(maxsize=NUM_KEPT)
def split_tap(name: str) -> tuple[int | None, str]:
    """Split `layers.03.router.logits` into (3, "router.logits") and `logits` into (None, "logits")."""
    if not name.startswith("layers."):
        return None, name
    _, layer, operation = name.split(".", 2)
    return int(layer), operation


@functools.lru_cache(maxsize=NUM_KEPT)
def tap_name(layer: int | None, operation: str) -> str:
    """Join a layer index and an operation into a tap name; layers have two digits or more."""
    return operation if layer is None else f"layers.{layer:02d}.{operation}"


def tap_names(config: LanguageModelConfig) -> tuple[str, ...]:
    """Return every tap of a configuration, in the order in which the forward pass makes them."""
    return names_of(tap_specs(), config)


def names_of(rows: Sequence[TapSpec], config: LanguageModelConfig) -> tuple[str, ...]:
    """Return the taps of a configuration that some rows stand for; those of the layers are next to one another."""
    block = "dense" if config.dense else "moe"
    specs = [spec for spec in rows if spec.block in ("always", block)]
    layered = [i for i, spec in enumerate(specs) if spec.per_layer]
    first, last = layered[0], layered[-1] + 1
    layers = (tap_name(layer, spec.operation) for layer in range(config.model.num_layers) for spec in specs[first:last])
    return (*(s.name for s in specs[:first]), *layers, *(s.name for s in specs[last:]))


def select_taps(names: Collection[str], patterns: Collection[str] | None) -> tuple[str, ...]:
    """Return the names that match any of the glob patterns, in their order; None selects all."""
    if patterns is None:
        return tuple(names)
    # A pattern is mostly a name, or all: a runner asks for every tap by its own, in each of hundreds of calls.
    plain = frozenset(patterns)
    if ALL in plain:
        return tuple(names)
    globs = [pattern for pattern in plain if not GLOB.isdisjoint(pattern)]
    if not globs:
        return tuple(name for name in names if name in plain)
    return tuple(name for name in names if name in plain or any(tap_matches(name, glob) for glob in globs))


def tap_matches(name: str, pattern: str) -> bool:
    """Return whether a tap's name fits a glob pattern.

    A `*` between dots stands for one part of the name, so that `layers.*.output` is the output of every layer and not
    `layers.00.attention.output`; one at either end of the pattern, as in `*.kv.*`, for any number of parts.
    """
    if pattern == ALL:
        return True
    parts, globs = name.split("."), pattern.split(".")
    open_start, open_end = globs[0] == "*", globs[-1] == "*"
    inner = globs[open_start : len(globs) - open_end]
    for before in range(len(parts) - len(inner) + 1):
        after = len(parts) - len(inner) - before
        placed = (before > 0) == open_start and (after > 0) == open_end
        if placed and all(map(fnmatch.fnmatchcase, parts[before : before + len(inner)], inner)):
            return True
    return False


SPECS: Mapping[str, TapSpec] = {spec.operation: spec for spec in tap_specs()}
