"""The local check: every operation recomputed from the inputs that the port itself used, and compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from grok_conformance.harness.cases.case import Case, steps_before
from grok_conformance.harness.checks.evidence import Key
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.hidden import Segments, simulate, widened
from grok_conformance.harness.checks.readings import reader
from grok_conformance.harness.checks.shown_logits import with_order
from grok_conformance.harness.contract import (
    LOGITS,
    Array,
    LanguageModelConfig,
    split_tap,
    tap_name,
)
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.oracle import Evaluator, evaluate, walk
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.blocks import Fencing, Pair
from grok_conformance.harness.measure.comparison import (
    Comparison,
    compare_all,
    compare_routing,
)
from grok_conformance.harness.measure.noise import (
    Fence,
    fence_of,
    margin,
    tail_factor,
)


def check_case(
    exhibit: Exhibit,
    *,
    num_elements: int,
    only: Collection[str] | None = None,
    evaluator: Evaluator = evaluate,
    segments: Segments | None = None,
) -> list[Comparison]:
    """Compare every tap that a candidate showed in a case with its operation applied to what the candidate showed.

    `num_elements` is the size of the whole run, which sets λ. Around taps that are not shown the operations are
    composed and checked as one. `only` restricts the check to some rows; `evaluator` applies the operations; `segments`
    are the noise of hidden operations where it is known already.
    """
    case, evidence, config = exhibit.case, exhibit.evidence, exhibit.evidence.config
    graph = evidence.graph
    places = {tap: i for i, tap in enumerate(graph.tap_names(config))}
    factor, reach = tail_factor(num_elements), margin(num_elements)
    needed = None if only is None else exhibit.needed(only)
    read = reader(exhibit.ways.readings, evidence.recorded, evaluator)
    if segments is None and exhibit.hides_taps:
        segments = simulate(exhibit, read, only=needed, rows_apart=evaluator is evaluate)
    results = dict(evidence.problems)
    scores: dict[Key, tuple[Array, Array]] = {}

    def pairs() -> Iterator[Pair]:
        for call, tap, exact, value in walk(
            exhibit.preset, case, exhibit.look, weights=exhibit.weights, plans=exhibit.ways.plans,
            evaluator=read, margin=reach, only=needed,
        ):  # fmt: skip
            key, operation = (call, tap), split_tap(tap)[1]
            if only is not None and graph.operation_of(tap, config).name not in only:
                continue
            if operation == graph.scores:
                hidden = None if segments is None or key in evidence.observed else segments.deviation.get(key, 0.0)
                scores[call, tap_name(split_tap(tap)[0], graph.choice)] = value, slack_of(exact, hidden, factor)
            if key not in evidence.observed:
                continue
            seen, mask, axes = evidence.observed[key], evidence.masks[call, operation], graph.specs[operation].axes
            deviation = None if segments is None else segments.deviation.get(key)
            if segments is not None and (deviation is not None or operation == graph.choice):
                mask = mask & segments.decided(key, seen.raw, axes)
            if operation == graph.choice:
                found = compare_routing(call, tap, scores[key][0], seen.raw, mask, scores[key][1])
                # Sums of tied experts may differ by a rounding: tied are only those whose own scores are equal.
                binding = case.tie_rule and (call, tap_name(split_tap(tap)[0], graph.scores)) in evidence.observed
                results[key] = replace(found, problem=found.problem or (found.note if binding else ""))
                continue
            copied = unchanged_below(exhibit, call) if operation in graph.copies else None
            fencing = fencing_of(exact, seen.recorded, factor, config, deviation, copied)
            yield Pair(key, axes, exact, fencing, seen.raw, mask, seen.recorded)

    for pair, found in compare_all(pairs()):
        call, tap = pair.key
        result = in_order(exhibit, pair, found, segments) if tap == LOGITS and call in evidence.named else found
        undecided = not result.num_elements and bool(evidence.masks[call, split_tap(tap)[1]].any())
        results[pair.key] = replace(result, undecided=True) if undecided else result
    return [results[key] for key in sorted(results, key=lambda key: (key[0], places[key[1]]))]


def in_order(exhibit: Exhibit, pair: Pair, found: Comparison, segments: Segments | None) -> Comparison:
    """Return how logits compare whose most probable tokens are named, with what is wrong of their order."""
    deviation = None if segments is None else segments.deviation.get(pair.key)
    fence = fence_of(pair.exact, pair.recorded, pair.factor)
    if deviation is not None:
        fence = widened(fence, deviation, pair.factor)
    call = pair.key[0]
    told = decided(exhibit.case, call, segments)
    return with_order(found, pair.exact, fence, exhibit.evidence.named[call], told)


def decided(case: Case, call: int, segments: Segments | None) -> Array:
    """Return which tokens of a call bool [b, t] are real and hang on no hidden choice that may go either way."""
    asked = case.calls[call]
    real: Array = np.arange(asked.tokens.shape[1]) < asked.lengths[:, None]
    return real if segments is None else real & segments.decided((call, LOGITS), real, ("b", "t"))


def slack_of(exact: Exact, deviation: Array | float | None, factor: float) -> Array:
    """Return to within what the scores of experts are known: float32 rounding where they are shown (deviation None).

    Where they are hidden it is their fence, and the measured deviation of what they are computed from.
    """
    if deviation is None:
        return 2 * UNIT_ROUNDOFF["float32"] * exact.value
    return fence_of(exact, "float32", factor).allowed + factor * deviation


def fencing_of(
    exact: Exact,
    recorded: str,
    factor: float,
    config: LanguageModelConfig,
    deviation: Array | None,
    copied: Array | None = None,
) -> Fencing:
    """Return how a tap is fenced; the deviation of what hidden operations pass on is allowed.

    Of a cache, which is a copy, `copied` are the steps int32 [b] before the call.
    """
    if copied is None and deviation is None:
        return factor
    fence = fence_of(exact, recorded, factor)
    if copied is not None:
        fence = fence_of_copy(exact, fence, recorded, copied, config)
    if deviation is not None:
        fence = widened(fence, deviation, factor)
    return fence


def unchanged_below(exhibit: Exhibit, call: int) -> Array:
    """Return below which slot int [b] a call must leave a cache bitwise as it was; a preloaded one is stored anew."""
    steps = steps_before(exhibit.case, call)
    return steps if call else np.zeros_like(steps)


def fence_of_copy(exact: Exact, fence: Fence, recorded: str, steps: Array, config: LanguageModelConfig) -> Fence:
    """Return the fence of a cache: earlier slots bitwise unchanged, new ones rounded to a cache's own dtype or grid.

    Where more precise values than are shown were carried to it, it rounds those.
    """
    narrower = recorded not in ("float32", config.fprop_dtype)
    new = np.arange(exact.value.shape[1]) >= steps[:, None]  # [b, s]
    quantised = np.any(exact.bound)
    may_round = (new & (narrower | quantised))[..., None, None] | (np.asarray(exact.inherited) > 0)
    return Fence(np.where(may_round, fence.allowed, 0.0), np.where(may_round, fence.deviation, 0.0), None, fence.factor)
