"""The local check: every operation recomputed from the inputs that the port itself used, and compared."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, steps_before, tap_key
from grok_conformance.harness.checks.readings import Readings, reader
from grok_conformance.harness.contract import (
    Array,
    CandidateInfo,
    LanguageModelConfig,
    select_taps,
    split_tap,
    tap_name,
    tap_names,
)
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.dtypes import recorded_dtypes
from grok_conformance.harness.graph.masks import masks_of
from grok_conformance.harness.graph.oracle import Alternatives, Evaluator, ExactWeights, evaluate, walk
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.graph.table import operation_of
from grok_conformance.harness.measure.comparison import (
    COPIES,
    Comparison,
    clean,
    compare,
    compare_routing,
    fit_slots,
    recorded_dtype,
    shape_problem,
    widen,
)
from grok_conformance.harness.measure.noise import (
    NUM_SIMULATIONS,
    SAFETY,
    Fence,
    disturb,
    fence_of,
    margin,
    tail_factor,
)
from grok_conformance.harness.measure.scan import Fencing, fenced, fenced_by

Key = tuple[int, str]


@dataclass(frozen=True)
class Observed:
    """One tap as a candidate gave it: float64 as it is, and fit to be computed with (see `gather`)."""

    raw: Array
    cleaned: Array
    recorded: str


@dataclass(frozen=True)
class Evidence:
    """Everything a candidate showed in one case: its usable taps, and what is wrong with the others.

    `recorded` is the dtype in which it honestly keeps each operation's result: the contract's, its own for the cache.
    `misshapen` holds the shapes of taps that have another one than they should; `fused` is what the candidate says of
    itself.
    """

    config: LanguageModelConfig
    recorded: Mapping[str, str]
    observed: Mapping[Key, Observed]
    problems: Mapping[Key, Comparison]
    masks: Mapping[Key, Array]
    misshapen: Mapping[Key, tuple[int, ...]] = field(default_factory=dict)
    fused: bool = False


def call_sizes(config: LanguageModelConfig, case: Case, call: int) -> dict[str, int]:
    """Return the size of every axis in one call, and as `visible` the least number of key slots that must be shown."""
    b, t = case.calls[call].tokens.shape
    reach = int((steps_before(case, call) + case.calls[call].lengths).max())
    sizes = {**config.axis_sizes, "b": b, "t": t}
    return {**sizes, "visible": sizes["s"] if case.published_degenerate else reach}


def gather(preset: Preset, case: Case, info: CandidateInfo, taps: Mapping[str, Array]) -> Evidence:
    """Read what a candidate gave for a case, names, shapes and dtypes before values; `taps` is keyed `call0/TAP`."""
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    contract = recorded_dtypes(config, preset)
    masks = masks_of(case, config)
    observed: dict[Key, Observed] = {}
    problems: dict[Key, Comparison] = {}
    misshapen: dict[Key, tuple[int, ...]] = {}
    for call in range(len(case.calls)):
        sizes = call_sizes(config, case, call)
        for tap in select_taps(tap_names(config), info.taps):
            operation = split_tap(tap)[1]
            recorded = recorded_dtype(tap, contract, info, config)
            if tap_key(call, tap) not in taps:
                problems[call, tap] = Comparison(call, tap, 0, problem="missing: declared but not returned")
                continue
            x = taps[tap_key(call, tap)]
            if problem := shape_problem(tap, x.shape, x.dtype, recorded, sizes):
                problems[call, tap] = Comparison(call, tap, 0, problem=problem)
                if problem.startswith("shape"):
                    misshapen[call, tap] = x.shape
                continue
            x = fit_slots(x, SPECS[operation], config.sequence_len)
            # An unused cache slot stays as it is: honest weights give it exactly nothing, and a fault of the mask is
            # found at the weights alone.
            mask = np.True_ if operation in COPIES else masks[call, operation]
            observed[call, tap] = Observed(widen(x), safe(tap, clean(x, mask), config), recorded)
    caches = {name: recorded_dtype(tap_name(0, name), contract, info, config) for name in COPIES}
    return Evidence(config, {**contract, **caches}, observed, problems, masks, misshapen, info.fused)


def safe(tap: str, x: Array, config: LanguageModelConfig) -> Array:
    """Make a tap fit to compute with: no NaN or infinity, experts within range (both are judged elsewhere)."""
    x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(x, 0, config.model.num_experts - 1) if tap.endswith("moe.expert_index") else x


def check_case(  # noqa: PLR0913 - a case, and every way in which its operations may be computed
    preset: Preset,
    case: Case,
    evidence: Evidence,
    *,
    num_elements: int,
    weights: ExactWeights | None = None,
    alternatives: Alternatives | None = None,
    readings: Readings | None = None,
    only: Collection[str] | None = None,
    evaluator: Evaluator = evaluate,
) -> list[Comparison]:
    """Compare every tap that a candidate showed in a case with its operation applied to what the candidate showed.

    `num_elements` is the size of the whole run, which sets λ. Around taps that are not shown the operations are
    composed and checked as one. `readings` say what consumers really used, `only` restricts the check to some rows;
    `evaluator` applies the operations.
    """
    config = evidence.config
    factor, reach = tail_factor(num_elements), margin(num_elements)
    weights = weights or ExactWeights(config, preset.weights)
    shown = {key: value.cleaned for key, value in evidence.observed.items()}
    gaps = has_gaps(config, case, shown)
    segments = simulate(preset, case, evidence, weights, alternatives, evaluator) if gaps else None
    results = dict(evidence.problems)
    steps = [steps_before(case, call) for call in range(len(case.calls))]
    scores: dict[Key, tuple[Array, Array]] = {}
    read = reader(readings or {}, evidence.recorded, only if segments is None else None, evaluator)
    for call, tap, exact, value in walk(
        preset, case, lambda call, tap: shown.get((call, tap)), weights=weights, alternatives=alternatives,
        evaluator=read, margin=reach,
    ):  # fmt: skip
        key, operation = (call, tap), split_tap(tap)[1]
        if only is not None and operation_of(tap, config).name not in only:
            continue
        if operation == "router.probabilities":
            hidden = None if segments is None or key in shown else segments.deviation.get(key, 0.0)
            scores[call, tap_name(split_tap(tap)[0], "moe.expert_index")] = value, slack_of(exact, hidden, factor)
        if key not in evidence.observed:
            continue
        seen, mask = evidence.observed[key], evidence.masks[call, operation]
        if operation == "moe.expert_index":
            if segments is not None:
                mask = mask & before(segments.undecided[call], steps[call], seen.raw, SPECS[operation].axes)
            found = compare_routing(call, tap, scores[key][0], seen.raw, mask, scores[key][1])
            # Sums of tied experts may differ by a rounding: they are tied only where the port's own scores are equal.
            binding = case.tie_rule and (call, tap_name(split_tap(tap)[0], "router.probabilities")) in shown
            results[key] = replace(found, problem=found.problem or (found.note if binding else ""))
            continue
        deviation = None if segments is None else segments.deviation.get(key)
        fencing = fencing_of(tap, exact, seen.recorded, factor, steps[call], config, deviation)
        if segments is not None and deviation is not None:
            mask = mask & before(segments.undecided[call], steps[call], seen.raw, SPECS[operation].axes)
        result = compare(call, tap, exact, fencing, seen.raw, mask, seen.recorded)
        results[key] = replace(
            result, undecided=not result.num_elements and bool(evidence.masks[call, operation].any())
        )
    return [results[key] for key in sorted(results, key=lambda key: (key[0], order(config)[key[1]]))]


def slack_of(exact: Exact, deviation: Array | float | None, factor: float) -> Array:
    """Return to within what the scores of experts are known: float32 rounding where they are shown (deviation None).

    Where they are hidden it is their fence, and the measured deviation of what they are computed from.
    """
    if deviation is None:
        return 2 * UNIT_ROUNDOFF["float32"] * exact.value
    return fence_of(exact, "float32", factor).allowed + factor * deviation


def order(config: LanguageModelConfig) -> Mapping[str, int]:
    """Return the position of every tap in the forward pass."""
    return {tap: i for i, tap in enumerate(tap_names(config))}


def fencing_of(
    tap: str,
    exact: Exact,
    recorded: str,
    factor: float,
    steps: Array,
    config: LanguageModelConfig,
    deviation: Array | None,
) -> Fencing:
    """Return how a tap is fenced: a cache is a copy, and the deviation of what hidden operations pass on is allowed."""
    copies = split_tap(tap)[1] in COPIES
    if not copies and deviation is None:
        return fenced(recorded, factor)
    fence = fence_of(exact, recorded, factor)
    if copies:
        fence = fence_of_copy(exact, fence, recorded, steps, config)
    if deviation is not None:
        fence = widened(fence, deviation, factor)
    return fenced_by(fence, exact.value.shape)


def fence_of_copy(exact: Exact, fence: Fence, recorded: str, steps: Array, config: LanguageModelConfig) -> Fence:
    """Return the fence of a cache: earlier slots bitwise unchanged, new ones rounded only to a cache's own dtype."""
    narrower = recorded not in ("float32", config.fprop_dtype)
    new = np.arange(exact.value.shape[1]) >= steps[:, None]  # [b, s]
    may_round = (new & narrower)[..., None, None]
    return Fence(np.where(may_round, fence.allowed, 0.0), np.where(may_round, fence.deviation, 0.0), None, fence.factor)


def has_gaps(config: LanguageModelConfig, case: Case, shown: Collection[Key]) -> bool:
    """Return whether any tap of a case is hidden."""
    return any((call, tap) not in shown for call in range(len(case.calls)) for tap in tap_names(config))


@dataclass(frozen=True)
class Segments:
    """Measured noise of what hidden operations pass on: the deviation per element, and where routing is undecided.

    `undecided` holds for each call the first position of every row from which a hidden choice of experts may honestly
    go either way, int [b] (t where none does).
    """

    deviation: Mapping[Key, Array]
    undecided: Mapping[int, Array]


def simulate(
    preset: Preset,
    case: Case,
    evidence: Evidence,
    weights: ExactWeights,
    alternatives: Alternatives | None,
    evaluator: Evaluator = evaluate,
) -> Segments:
    """Rerun a case with modelled noise at every hidden operation, and measure how far the shown ones then stray."""
    config = evidence.config
    random = np.random.default_rng(0)
    shown = {key: value.cleaned for key, value in evidence.observed.items()}

    def look(call: int, tap: str) -> Array | None:
        return shown.get((call, tap))

    exact = {
        (call, tap): (result, value)
        for call, tap, result, value in walk(
            preset, case, look, weights=weights, alternatives=alternatives, evaluator=evaluator
        )
    }

    def forced(call: int, tap: str) -> Array | None:
        return exact[call, tap][1] if tap.endswith("moe.expert_index") else shown.get((call, tap))

    squares: dict[Key, Array] = {}
    for _ in range(NUM_SIMULATIONS):
        noisy = walk(
            preset,
            case,
            forced,
            weights=weights,
            alternatives=alternatives,
            evaluator=evaluator,
            perturb=lambda tap, result: disturb(result, evidence.recorded[split_tap(tap)[1]], random),
        )
        for call, tap, result, _ in noisy:
            difference = np.square(result.value - exact[call, tap][0].value)
            squares[call, tap] = squares.get((call, tap), 0.0) + difference / NUM_SIMULATIONS
    deviation = {key: np.sqrt(np.maximum(x, x.mean(-1, keepdims=True))) for key, x in squares.items() if x.any()}
    undecided = {call: undecided_from(case, call, config, exact, deviation, shown) for call in range(len(case.calls))}
    return Segments(deviation, undecided)


def undecided_from(
    case: Case,
    call: int,
    config: LanguageModelConfig,
    exact: Mapping[Key, tuple[Exact, Array]],
    deviation: Mapping[Key, Array],
    shown: Collection[Key],
) -> Array:
    """Return for each row the first position whose hidden choice of experts lies within honest noise, int [b]."""
    b, t = case.calls[call].tokens.shape
    undecided = np.zeros((b, t), bool)
    for layer in range(0 if config.dense else config.model.num_layers):
        key = (call, tap_name(layer, "router.probabilities"))
        if (call, tap_name(layer, "moe.expert_index")) in shown or key not in deviation:
            continue
        gap, fence = boundary_gap(exact[key][1], config), 2 * SAFETY * deviation[key].max(-1)
        undecided |= gap <= fence
    first: Array = np.where(undecided.any(-1), undecided.argmax(-1), t)
    return first


def boundary_gap(probabilities: Array, config: LanguageModelConfig) -> Array:
    """Return how far the last chosen expert is ahead of the first one left out, [b, t] from probabilities [b, t, e]."""
    ordered: Array = -np.sort(-probabilities, axis=-1)
    k = config.model.num_selected_experts
    if k == ordered.shape[-1]:
        return np.full(ordered.shape[:-1], math.inf)
    gap: Array = ordered[..., k - 1] - ordered[..., k]
    return gap


def widened(fence: Fence, deviation: Array, factor: float) -> Fence:
    """Add the measured noise of hidden operations to a fence; it is correlated in ways that nothing is known of."""
    return Fence(fence.allowed + factor * deviation, np.hypot(fence.deviation, deviation), None, factor)


def before(undecided: Array, steps: Array, x: Array, axes: tuple[str, ...]) -> Array:
    """Return the mask of query positions, of cache slots in a cache x, before a row's first undecided position."""
    letter, first = ("t", undecided) if "t" in axes else ("s", steps + undecided)
    kept: Array = np.arange(x.shape[axes.index(letter)]) < first[:, None]  # [b, t] or [b, s]
    reshaped: Array = kept.reshape([kept.shape[("b", letter).index(a)] if a in ("b", letter) else 1 for a in axes])
    return reshaped
