"""What a candidate showed in one case: every tap read once, names, shapes and dtypes before values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, steps_before, tap_key
from grok_conformance.harness.checks.shown_logits import lay_out
from grok_conformance.harness.contract import (
    ALL_LOGITS,
    LOGITS,
    Array,
    CandidateInfo,
    LanguageModelConfig,
    TapSpec,
    select_taps,
    split_tap,
    tap_matches,
    tap_name,
)
from grok_conformance.harness.formats.held import Held
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.masks import masks_of
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.measure.comparison import Comparison, Kind, clean, widen

Key = tuple[int, str]


HELD = Held(2**26)
"""Taps in float64, which take many times the memory of the answers: those of the cases looked at last."""


@dataclass(frozen=True, eq=False)
class Observed:
    """One tap as a candidate gave it; in float64 as it is, and fit to be computed with (see `gather`), when asked for.

    What `given` returns is read each time. What `mask` leaves out is not compared, and is 0 in `cleaned`; `num_experts`
    is of a tap that names experts.
    """

    given: Callable[[], Array]
    recorded: str
    mask: Array | np.bool_ = np.True_
    num_experts: int | None = None

    @property
    def raw(self) -> Array:
        """The tap in float64."""
        return widen(self.given())

    @property
    def cleaned(self) -> Array:
        """The tap in float64, fit to be computed with."""
        return HELD.get(self, lambda: safe(clean(self.given(), self.mask), self.num_experts))


@dataclass(frozen=True, eq=False)
class Cleaned(Mapping[Key, Array]):
    """The values of all taps, fit to be computed with, made when they are asked for."""

    observed: Mapping[Key, Observed]

    def __getitem__(self, key: Key) -> Array:
        """Return one of them."""
        return self.observed[key].cleaned

    def __iter__(self) -> Iterator[Key]:
        """Iterate over their keys."""
        return iter(self.observed)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.observed)


@dataclass(frozen=True)
class Evidence:
    """Everything a candidate showed in one case: its usable taps, and what is wrong with the others.

    `recorded` is the dtype in which it honestly keeps each operation's result: the contract's, its own for the cache.
    `misshapen` holds the shapes of taps that have another one than they should; `fused` is what the candidate says of
    itself. `named` holds by call which tokens bool [b, t, v] are named the most probable, where not all are shown.
    """

    config: LanguageModelConfig
    recorded: Mapping[str, str]
    observed: Mapping[Key, Observed]
    problems: Mapping[Key, Comparison]
    masks: Mapping[Key, Array]
    misshapen: Mapping[Key, tuple[int, ...]] = field(default_factory=dict)
    fused: bool = False
    tie_rule: bool = False
    named: Mapping[int, Array] = field(default_factory=dict)
    graph: ModelGraph = GROK_1

    @property
    def cleaned(self) -> Mapping[Key, Array]:
        """The values of all taps, fit to be computed with."""
        return Cleaned(self.observed)

    @functools.cached_property
    def hidden(self) -> frozenset[str]:
        """The rows of which some tap is not shown."""
        calls = {call for call, _ in self.masks}
        made_by = self.graph.taps_with_rows(self.config)
        return frozenset(row.name for tap, row in made_by if any((call, tap) not in self.observed for call in calls))


def call_sizes(config: LanguageModelConfig, case: Case, call: int) -> dict[str, int]:
    """Return the size of every axis in one call, and as `visible` the least number of key slots that must be shown.

    A query that sees no key averages over the slots filled so far and those of its call, pads included (SPEC §4.4);
    over slots that a growing cache has not, as a decoded pad would, is a matter of its weights.
    """
    tokens, lengths = case.calls[call].tokens, case.calls[call].lengths
    b, t = tokens.shape
    reach = int((steps_before(case, call) + (t if case.published_degenerate else lengths)).max())
    return {**config.axis_sizes, "b": b, "t": t, "visible": reach}


def gather(
    preset: Preset,
    case: Case,
    info: CandidateInfo,
    taps: Mapping[str, Array],
    graph: ModelGraph = GROK_1,
    asked: Sequence[Collection[str]] | None = None,
) -> Evidence:
    """Read what a candidate gave for a case, names, shapes and dtypes before values; `taps` is keyed `call0/TAP`.

    `asked` are the glob patterns of the taps that each call was asked for, None for all.
    """
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    contract = graph.recorded_dtypes(config, preset.weights)
    if case.form.kind == "log_probabilities":  # worked out in float32 from logits in any dtype
        contract[LOGITS] = "float32"
    masks = masks_of(case, config, graph.taps)
    observed: dict[Key, Observed] = {}
    problems: dict[Key, Comparison] = {}
    misshapen: dict[Key, tuple[int, ...]] = {}
    named: dict[int, Array] = {}
    for call in range(len(case.calls)):
        sizes = call_sizes(config, case, call)
        declared = select_taps(graph.tap_names(config), info.taps)
        for tap in select_taps(declared, None if asked is None else asked[call]):
            operation = split_tap(tap)[1]
            spec = graph.specs[operation]
            recorded = recorded_dtype(tap, spec, contract, info, config)
            key = tap_key(call, tap)
            if key not in taps:
                problems[call, tap] = Comparison(call, tap, 0, problem=f"{Kind.MISSING}: declared but not returned")
                continue
            x, given = taps[key], partial(slots_given, taps, key, spec, config.sequence_len)
            if tap == LOGITS and case.form != ALL_LOGITS:
                laid_out = lay_out(x, case, call, config.vocab_size)
                given = partial(logits_given, taps, key, case, call, config.vocab_size)
                if laid_out.problem:
                    problems[call, tap] = Comparison(call, tap, 0, problem=laid_out.problem)
                    continue
                x, masks[call, tap] = laid_out.values, masks[call, tap] & laid_out.shown
                if laid_out.named is not None:
                    named[call] = laid_out.named
            narrowest = config.fprop_dtype if operation in graph.rounded_taps else recorded
            narrowest = max(recorded, narrowest, key=lambda dtype: UNIT_ROUNDOFF[dtype])
            if problem := shape_problem(spec, x.shape, x.dtype, narrowest, sizes):
                problems[call, tap] = found = Comparison(call, tap, 0, problem=problem)
                if found.kind is Kind.SHAPE:
                    misshapen[call, tap] = x.shape
                continue
            # An unused cache slot stays as it is: honest weights give it exactly nothing, and a fault of the mask is
            # found at the weights alone.
            mask = np.True_ if operation in graph.copies else masks[call, operation]
            observed[call, tap] = Observed(given, recorded, mask, experts_named(spec, config))
    caches = {
        name: recorded_dtype(tap_name(0, name), graph.specs[name], contract, info, config) for name in graph.copies
    }
    return Evidence(
        config, {**contract, **caches}, observed, problems, masks, misshapen, info.fused, info.tie_rule, named, graph
    )


def in_memory(x: Array) -> Callable[[], Array]:
    """Return what gives a tap that is at hand."""
    return lambda: x


def slots_given(taps: Mapping[str, Array], key: str, spec: TapSpec, num_slots: int) -> Array:
    """Return a tap as it was given, with as many slots as the cache has."""
    return fit_slots(taps[key], spec, num_slots)


def logits_given(taps: Mapping[str, Array], key: str, case: Case, call: int, num_tokens: int) -> Array:
    """Return logits of which some are shown, laid on their axes."""
    return lay_out(taps[key], case, call, num_tokens).values


def safe(x: Array, num_experts: int | None) -> Array:
    """Make a tap fit to compute with: no NaN or infinity, experts within range (both are judged elsewhere)."""
    if not np.isfinite(x).all():
        x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
    return x if num_experts is None else np.clip(x, 0, num_experts - 1)


def experts_named(spec: TapSpec, config: LanguageModelConfig) -> int | None:
    """Return how many experts there are that a tap may name, None where it names none."""
    return config.model.num_experts if spec.dtype == "int32" else None


def recorded_dtype(
    tap: str, spec: TapSpec, contract: Mapping[str, str], info: CandidateInfo, config: LanguageModelConfig
) -> str:
    """Return the dtype by which a candidate's tap is judged.

    Taps that the contract fixes (float32, int32) keep it; elsewhere the candidate's own declaration holds, the
    contract's where it declares none or, the cache apart, a wider one.
    """
    fixed = contract[spec.operation]
    if spec.dtype in ("float32", "int32"):
        return fixed
    for pattern, declared in info.dtypes.items():
        if tap_matches(tap, pattern):
            name = config.fprop_dtype if declared == "fprop" else declared
            if spec.dtype == "cache":
                return name
            return max(name, fixed, key=lambda dtype: UNIT_ROUNDOFF[dtype])
    return fixed


def shape_problem(
    spec: TapSpec, shape: tuple[int, ...], dtype: np.dtype[np.generic], recorded: str, call_sizes: Mapping[str, int]
) -> str:
    """Return what is wrong with a tap's shape or dtype, or an empty string.

    `call_sizes` are the axis sizes of the call. The key axis may be shorter than the cache (down to the visible slots,
    size `visible`) or longer.
    """
    wanted = tuple(call_sizes[axis] for axis in spec.axes)
    fits = len(shape) == len(wanted) and all(
        size >= call_sizes["visible"] if axis == "s" else size == want
        for axis, size, want in zip(spec.axes, shape, wanted, strict=True)
    )
    if not fits:
        told = f"{Kind.SHAPE} {list(shape)}, expected [{', '.join(spec.axes)}] = {list(wanted)}"
        return told + (", whose axes stand in another order" if sorted(shape) == sorted(wanted) else "")
    if recorded == "int32":
        return "" if np.issubdtype(dtype, np.integer) else f"dtype {dtype}, expected an integer dtype"
    if str(dtype) not in UNIT_ROUNDOFF or str(dtype) == "int32":
        return f"dtype {dtype}, expected {recorded}"
    if UNIT_ROUNDOFF[str(dtype)] > UNIT_ROUNDOFF[recorded]:
        return f"dtype {dtype} is narrower than {recorded}"
    return ""


def fit_slots(x: Array, spec: TapSpec, num_slots: int) -> Array:
    """Crop or zero-pad the key axis of a tap to the slots of the cache; other taps are returned as they are."""
    if "s" not in spec.axes:
        return x
    axis = spec.axes.index("s")
    if x.shape[axis] == num_slots:
        return x
    x = np.take(x, np.arange(min(num_slots, x.shape[axis])), axis=axis)
    padding = [(0, num_slots - size if i == axis else 0) for i, size in enumerate(x.shape)]
    return np.pad(x, padding)
