"""The weights as a candidate holds them, against the stored ones, before any forward pass (SPEC §2, §3, §7).

A wrong mapping of the checkpoint is the commonest fault of a port, and the easiest to name: the tensor that the
candidate shows is compared with what each known mistake would make of the stored one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import Array, LanguageModelConfig, Weights
from grok_conformance.harness.contract.grok_1 import KEY, QUERY
from grok_conformance.harness.graph.arithmetic import SMALLEST_NORMAL, UNIT_ROUNDOFF, round_to
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.running.answers import DEQUANTIZED, LOADED

NO_SUCH = "no parameter of this configuration"
"""What is wrong with a name that is not stored."""

ALIKE = 2.0**-8
"""To within this share a tensor is what a known mistake makes of the stored one: a rounding to bfloat16."""


@dataclass(frozen=True, kw_only=True)
class WeightProblem:
    """A tensor that is not what is stored: the worst element, and the mistake that would explain all of it, if any."""

    preset: str
    tensor: str
    problem: str
    index: tuple[int, ...] = ()
    observed: float = math.nan
    expected: float = math.nan
    likely: str = ""

    def __str__(self) -> str:
        """Return the problem in one line."""
        where = (
            f" at {list(self.index)}: observed {self.observed:.9g}, expected {self.expected:.9g}" if self.index else ""
        )
        likely = f"; likely {self.likely}" if self.likely else ""
        return f"{self.preset}: {self.tensor}: {self.problem}{where}{likely}"


def check_weights(
    preset: str, config: LanguageModelConfig, stored: Weights, shown: Mapping[str, Array]
) -> tuple[WeightProblem, ...]:
    """Compare what a candidate shows of its weights with the stored ones; `shown` has the names of weights.safetensors.

    A quantised matrix may be shown as its stored parts, or whole as NAME/w in any dtype: weight · scale, kept or
    rounded to the dtype of the scales. Plain matrices may be rounded to the compute dtype, norm scales and the router
    not.
    """
    found = []
    for key, observed in shown.items():
        name = key.removeprefix(LOADED).removeprefix(DEQUANTIZED)
        expected = readings(config, stored, name)
        if name == key or not expected:
            found.append(unknown_name(preset, key, name, stored))
        elif problem := compare_weight(preset, key, observed, expected):
            likely = likely_mistake(config, stored, name, observed)
            found.append(WeightProblem(**{**vars(problem), "likely": likely}))
    return tuple(found)


def unknown_name(preset: str, key: str, name: str, stored: Weights) -> WeightProblem:
    """Return that no parameter has a name, and what stands before one, or which one has one like it."""
    whole = {other.removesuffix(".weight").removesuffix(".scales") for other in stored}
    if name in whole | set(stored):
        told = f"{NO_SUCH}: put {LOADED} or {DEQUANTIZED} before it"
        return WeightProblem(preset=preset, tensor=key, problem=told)
    ends = [other for other in whole | set(stored) if name.endswith(other)]
    if ends:
        before = name.removesuffix(max(ends, key=len))
        likely = f"{before!r} before the stored name: leave it out"
        return WeightProblem(preset=preset, tensor=key, problem=NO_SUCH, likely=likely)
    part = next((part for part in (".weight", ".scales") if name.endswith(part)), "")
    alike = sorted(other for other in (stored if part else whole) if other.endswith(part))
    like = difflib.get_close_matches(name, alike or sorted(whole), n=1)
    told = NO_SUCH + (f": did you mean {like[0]}?" if like else "")
    return WeightProblem(preset=preset, tensor=key, problem=told)


def readings(config: LanguageModelConfig, stored: Weights, name: str) -> list[Array]:
    """Return what a parameter may honestly hold, float64; nothing for a name that is not stored."""
    rounded = config.fprop_dtype != "float32" and GROK_1.kind_of(name) in ("matrix", "expert", "table")
    if name in stored:
        exact = stored[name].astype(np.float64)
        return [exact, round_to(exact, config.fprop_dtype)] if rounded else [exact]
    if f"{name}.weight" in stored:
        exact = product(stored, name)
        dtypes = {str(stored[f"{name}.scales"].dtype), config.fprop_dtype if rounded else "float32"}
        return [exact, *(round_to(exact, dtype) for dtype in sorted(dtypes))]
    return []


def product(stored: Weights, name: str) -> Array:
    """Return a quantised matrix in float64: row k has the scales of group k // (K / G) (SPEC §3)."""
    weight, scales = (stored[f"{name}.{part}"].astype(np.float64) for part in ("weight", "scales"))
    return weight * np.repeat(scales, weight.shape[-2] // scales.shape[-2], axis=-2)


def compare_weight(preset: str, key: str, observed: Array, expected: Sequence[Array]) -> WeightProblem | None:
    """Return how a tensor differs from the nearest of its honest readings, None where it is one of them."""
    if observed.shape != expected[0].shape:
        problem = f"shape {list(observed.shape)}, expected {list(expected[0].shape)}"
        return WeightProblem(preset=preset, tensor=key, problem=problem)
    if any(np.array_equal(observed, each) for each in expected):  # as mostly, and no error need be worked out
        return None
    values = observed.astype(np.float64)
    errors = [units_of_error(values, each) for each in expected]
    best = min(range(len(errors)), key=lambda i: float(errors[i].max(initial=0.0)))
    if errors[best].max(initial=0.0) <= 1:
        return None
    index = tuple(int(i) for i in np.unravel_index(int(errors[best].argmax()), values.shape))
    wrong = int((errors[best] > 1).sum())
    return WeightProblem(
        preset=preset,
        tensor=key,
        problem=f"{wrong} of {values.size} values differ, most",
        index=index,
        observed=float(values[index]),
        expected=float(expected[best][index]),
    )


def units_of_error(observed: Array, expected: Array) -> Array:
    """Return how far each value is off, in roundings to float32; infinite where it is not finite."""
    error = np.where(np.isfinite(observed), np.abs(observed - expected), np.inf)
    with np.errstate(over="ignore"):  # far off is far off
        units: Array = error / (UNIT_ROUNDOFF["float32"] * np.abs(expected) + SMALLEST_NORMAL["float32"])
    return units


def likely_mistake(config: LanguageModelConfig, stored: Weights, name: str, observed: Array) -> str:
    """Return the known mistake that makes the observed tensor of the stored one, an empty string if none does."""
    values = observed.astype(np.float64)
    for dtype in ("bfloat16", "float16"):
        if np.array_equal(values, round_to(readings(config, stored, name)[0], dtype)):
            return f"rounded to {dtype}"
    for mistake, made in mistakes(config, stored, name):
        if made.shape == values.shape and np.allclose(values, made, rtol=ALIKE, atol=0):
            return mistake
    return ""


def mistakes(config: LanguageModelConfig, stored: Weights, name: str) -> Iterator[tuple[str, Array]]:
    """Yield (mistake, what it makes of a parameter), float64."""
    (exact, *_) = readings(config, stored, name)
    yield "negated: every value has the other sign", -exact
    if exact.ndim > 1:
        yield "transposed: its last two axes are exchanged", exact.swapaxes(-1, -2)
    if f"{name}.scales" in stored:
        yield from mistakes_of_scales(stored, name)
    if GROK_1.kind_of(name) == "gain":
        yield "1 + scale, where the specification multiplies by scale", 1 + exact
    if GROK_1.below(name)[1] in (QUERY, KEY):
        yield from mistakes_of_heads(config, exact, name)
    if exact.ndim == 3:  # noqa: PLR2004 - experts [e, k, n]
        yield "its experts are in reverse order", exact[::-1]
    others = {other.removesuffix(".weight").removesuffix(".scales") for other in stored} - {name}
    for other in sorted(others):
        yield f"the values of {other}", readings(config, stored, other)[0]


def mistakes_of_scales(stored: Weights, name: str) -> Iterator[tuple[str, Array]]:
    """Yield what wrong uses of the scales [.., G, n] make of a quantised matrix [.., k, n]."""
    weight, scales = (stored[f"{name}.{part}"].astype(np.float64) for part in ("weight", "scales"))
    num_groups, per_group = scales.shape[-2], weight.shape[-2] // scales.shape[-2]
    repeats = [1] * (scales.ndim - 2)
    yield "scales left out", weight
    yield "scales of row 0 used for every group", weight * scales[..., :1, :]
    yield (
        f"scales interleaved: row k has those of group k % {num_groups}, not k // {per_group}",
        weight * np.tile(scales, (*repeats, per_group, 1)),
    )
    yield "scales in reverse order of groups", weight * np.repeat(scales[..., ::-1, :], per_group, axis=-2)
    if scales.ndim == 3 and scales.shape[0] == num_groups:  # noqa: PLR2004 - [e, G, n] with e = G
        exchanged = np.repeat(scales.swapaxes(0, 1), per_group, axis=-2)
        yield "the expert and group axes of the scales are exchanged", weight * exchanged


def mistakes_of_heads(config: LanguageModelConfig, exact: Array, name: str) -> Iterator[tuple[str, Array]]:
    """Yield what wrong orders of heads, and of a head's halves, make of a query or key matrix [d, heads·h]."""
    width, groups = config.model.key_size, config.model.num_kv_heads
    heads = exact.reshape(len(exact), -1, width)  # [d, heads, h]
    halves = heads.reshape(*heads.shape[:2], 2, width // 2)  # [d, heads, 2, h / 2]
    paired = halves.swapaxes(-1, -2).reshape(exact.shape)
    yield "heads in interleaved rotary order: x1 and x2 alternate, where they are the two halves", paired
    pairs = heads.reshape(*heads.shape[:2], width // 2, 2)
    yield (
        "heads taken for interleaved rotary order, and reordered to halves",
        pairs.swapaxes(-1, -2).reshape(exact.shape),
    )
    if GROK_1.below(name)[1] == QUERY:
        grouped = heads.reshape(len(exact), groups, -1, width)  # [d, g, r, h]
        yield "query heads tiled: head j uses KV head j % g, not j // r", grouped.swapaxes(1, 2).reshape(exact.shape)


def check_partition_specs(preset: str, stored: Weights, shown: Mapping[str, object]) -> tuple[WeightProblem, ...]:
    """Compare a candidate's sharding with the published one (SPEC §7).

    `shown` maps each parameter to a list of mesh axes per dimension: a name, null, or a list of names.
    """
    names = sorted({name.removesuffix(".weight").removesuffix(".scales") for name in stored})
    found = []
    for name in names:
        expected = GROK_1.weights[GROK_1.below(name)[1]].sharding
        if normalised(shown.get(name)) != normalised(list(expected)):
            problem = f"partition spec {shown.get(name)}, expected {list(expected)}"
            found.append(WeightProblem(preset=preset, tensor=name, problem=problem))
    return tuple(found)


def normalised(spec: object) -> object:
    """Return a spec without what means nothing: null dimensions at its end, and lists of one name."""
    if not isinstance(spec, list):
        return spec
    axes = [axis[0] if isinstance(axis, list) and len(axis) == 1 else axis for axis in spec]
    while axes and axes[-1] is None:
        axes.pop()
    return axes
