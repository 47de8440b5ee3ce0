"""What a caller gives in Python: arrays by name, tokens, a compute dtype; what does not fit is refused in one line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from grok_conformance.harness.contract import Array, LanguageModelConfig, Weights
from grok_conformance.harness.contract.grok_1 import PUBLISHED
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.row import LAST_OUTPUT, RESIDUAL_STREAM
from grok_conformance.harness.measure.comparison import widen
from grok_conformance.harness.running.python_runner import FPROP_DTYPES, as_array


def compute_dtype(name: str) -> str:
    """Return the name of a compute dtype; raises ValueError for a name that none has."""
    if name not in FPROP_DTYPES:
        raise ValueError(f"dtype: {unknown('compute dtype', str(name), FPROP_DTYPES)}")
    return name


def check_axes(name: str, x: Array, axes: Sequence[str]) -> None:
    """Raise ValueError where an array has not as many axes as it should."""
    if x.ndim != len(axes):
        cure = ": write one row as [[…]]" * (x.ndim == 1 and tuple(axes) == ("b", "t"))
        raise ValueError(f"{name}: shape {list(x.shape)}, expected [{', '.join(axes)}]{cure}")


def whole_numbers(name: str, given: ArrayLike, most: int, axes: str) -> Array:
    """Return numbers from 0 to the most as int32, with the axes given; raises TypeError and ValueError for others."""
    found = as_array(name, given)
    check_axes(name, found, axes)
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"{name}: {found.dtype}, expected whole numbers")
    if (outside := np.argwhere((found < 0) | (found > most))).size:
        place = outside[0].tolist()
        raise ValueError(f"{name}: {found[tuple(place)]} at {place}, expected 0 to {most}")
    return found.astype(np.int32)


def whole_numbers_of(name: str, given: ArrayLike | None, otherwise: int, most: int, shape: Sequence[int]) -> Array:
    """Return numbers from 0 to the most in a shape, one and the same everywhere where none are given."""
    if given is None:
        return np.full(shape, otherwise, np.int32)
    found = whole_numbers(name, given, most, "bt"[: len(shape)])
    if found.shape != tuple(shape):
        raise ValueError(f"{name}: shape {list(found.shape)}, expected {list(shape)}")
    return found


def prompt(config: LanguageModelConfig, tokens: ArrayLike, lengths: ArrayLike | None) -> tuple[Array, Array]:
    """Return the tokens of a prefill and the length of each row, its whole width where none is given."""
    found = whole_numbers("tokens", tokens, config.vocab_size - 1, "bt")
    b, t = found.shape
    if not (b and 0 < t <= config.sequence_len):
        raise ValueError(f"tokens: shape {[b, t]}, expected rows of 1 to {config.sequence_len}, which the cache holds")
    return found, whole_numbers_of("lengths", lengths, t, t, (b,))


def check_stored(config: LanguageModelConfig, weights: Weights) -> None:
    """Raise ValueError where a weight that the configuration has is not given under its stored name."""
    stored = {name.removesuffix(".weight").removesuffix(".scales") for name in weights}
    for tap in GROK_1.tap_names(config):
        for name in GROK_1.weight_names(tap, config):
            if name not in stored:
                raise ValueError(f"weights: {name} is missing: give all by their stored names (SPEC §2)")


def arrays_by_name(operation: str, kind: str, given: object, names: Sequence[str]) -> dict[str, Array]:
    """Return arrays by name; raises TypeError where they have none, `names` being those that the operation reads."""
    if not isinstance(given, Mapping):
        wanted = "{" + ", ".join(f"{name!r}: …" for name in names) + "}"
        raise TypeError(f"{kind}: {type(given).__name__}, expected names with arrays: {operation} reads {wanted}")
    return {name: as_array(name, x) for name, x in given.items()}


def check_names(operation: str, given: Collection[str]) -> None:
    """Raise ValueError unless the names are those of the inputs of an operation, in a model of experts or a dense one.

    Which of the two it is follows from the arrays.
    """
    rows = [row.inputs for row in GROK_1.operations if row.tap == operation]
    if set(given) not in map(set, rows):
        raise ValueError(what_is_read(operation, given, rows[0]))


def what_is_read(operation: str, given: Collection[str], names: Sequence[str]) -> str:
    """Return in one line what an operation was given and what it reads."""
    return f"{operation}: inputs {', '.join(sorted(given)) or 'none'}; it reads {', '.join(names) or 'none'}"


def config_of(operation: str, inputs: Mapping[str, Array], observed: Array) -> LanguageModelConfig:
    """Return the published configuration in the sizes that the arrays have; raises ValueError where two disagree."""
    sizes: dict[str, int] = {}
    taps = dict(zip((RESIDUAL_STREAM, LAST_OUTPUT), GROK_1.stream, strict=True))
    for name, x in [*inputs.items(), (operation, observed)]:
        spec = SPECS[taps.get(name, name.removeprefix("previous:"))]
        check_axes(name, x, spec.axes)
        for axis, size in zip(spec.axes, x.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name}: axis {axis} has size {size}, elsewhere {sizes[axis]}")
    own = PUBLISHED.model
    heads, dense = sizes.get("g", own.num_kv_heads), SPECS[operation].block == "dense"
    model = replace(
        own,
        emb_size=sizes.get("d", own.emb_size),
        key_size=sizes.get("h", own.key_size),
        num_kv_heads=heads,
        num_q_heads=sizes.get("q", heads * sizes.get("r", own.num_q_heads // own.num_kv_heads)),
        num_experts=sizes.get("e", own.num_experts) if not dense else 1,
        num_selected_experts=sizes.get("c", own.num_selected_experts) if not dense else 1,
    )
    length = max(sizes.get("s", 0), sizes.get("t", 0))
    return replace(PUBLISHED, model=model, vocab_size=sizes.get("v", PUBLISHED.vocab_size), sequence_len=length)


def named_inputs(tap: str, config: LanguageModelConfig, given: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs of a row by the taps that they stand for, float64; raises ValueError for a missing one."""
    names = GROK_1.operation_of(tap, config).inputs
    if set(given) != set(names):
        raise ValueError(what_is_read(tap, given, names))
    return {full: widen(given[name]) for name, full in zip(names, GROK_1.input_taps(tap, config), strict=True)}


def named_weights(tap: str, config: LanguageModelConfig, given: Mapping[str, Array]) -> dict[str, Array]:
    """Return the weights of a row by stored name; raises ValueError for a missing one."""
    names, stored = GROK_1.operation_of(tap, config).weights, GROK_1.weight_names(tap, config)
    given = arrays_by_name(tap, "weights", given, names)
    found: dict[str, Array] = {}
    for name, full in zip(names, stored, strict=True):
        parts = [part for part in ("", ".weight", ".scales") if name + part in given]
        if parts not in ([""], [".weight", ".scales"]):
            raise ValueError(f"{tap}: weights need {name}, or {name}.weight and {name}.scales")
        found |= {full + part: given[name + part] for part in parts}
    return found
