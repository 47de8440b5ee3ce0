"""What every known fault would have given at the inputs that a port used, beside what is exact and what is honest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.checks.evidence import Key, safe
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.hidden import Segments, simulate, widened
from grok_conformance.harness.contract import Array, split_tap, tap_name
from grok_conformance.harness.faults import Fault, change_of, mutant
from grok_conformance.harness.graph.oracle import DEFAULT_MARGIN, Evaluator, ExactWeights, evaluate, walk
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.measure.noise import Fence, fence_of


@dataclass(frozen=True)
class Prediction:
    """One tap: the exact result, what each fault gives (in another shape perhaps), the fence, and what is compared.

    `noise` is the deviation of what hidden operations pass on, None where all inputs are shown; `probabilities` are
    those by which experts are chosen, at the tap that chooses them.
    """

    key: Key
    exact: Exact
    faulty: Mapping[str, Exact]
    fence: Fence
    mask: Array
    noise: Array | None
    probabilities: Array | None

    @property
    def operation(self) -> str:
        """The operation that made the tap."""
        return split_tap(self.key[1])[1]


def predict(
    exhibit: Exhibit,
    layers: Mapping[str, Collection[int | None]],
    faults: Mapping[str, Fault],
    factor: float = 1.0,
    margin: float = DEFAULT_MARGIN,
) -> Iterator[Prediction]:
    """Yield a prediction for every tap of some operations that a candidate showed, well or ill shaped.

    `layers` are those of interest by operation, all if empty; `factor` is the λ of the fences, `margin` that of the
    jumps of inner roundings. A fault of a hidden operation is carried on to the taps that show it.
    """
    preset, case, evidence = exhibit.preset, exhibit.case, exhibit.evidence
    graph, config = evidence.graph, evidence.config
    # What no check compares is shown too: a fault may let a masked key or a pad in.
    shown = {key: safe(seen.raw, seen.num_experts) for key, seen in evidence.observed.items()}
    names = graph.tap_names(config)
    segments = simulate(exhibit, rows_apart=True) if exhibit.hides_taps else None
    hidden = {tap for call in range(len(case.calls)) for tap in names if (call, tap) not in shown}
    wanted = {tap for tap in names if is_in(layers, *split_tap(tap))}
    reachable = {split_tap(tap)[1] for tap in hidden | wanted}

    kept: Kept = {}

    def results(evaluator: Evaluator, taps: Collection[str], told: Collection[str]) -> dict[Key, tuple[Exact, Array]]:
        walked = walk(
            preset, case, lambda call, tap: shown.get((call, tap)), weights=exhibit.weights,
            plans=exhibit.ways.plans, evaluator=only(taps, evaluator), margin=margin,
        )  # fmt: skip
        return {(call, tap): (exact, value) for call, tap, exact, value in walked if tap in told}

    def changed(fault: Fault) -> set[str]:
        if hidden:  # what is wrong there is carried on
            return hidden | wanted
        return {tap for tap in wanted if change_of(fault, tap, exhibit.weights) is not None}

    exact = results(remembered(evaluate, kept), hidden | wanted, hidden | wanted)
    faulty = {}
    for name, fault in faults.items():
        if not reachable.isdisjoint(fault.operations):
            taps = changed(fault)  # of what a fault does to hidden taps of long prompts nothing is kept: it is large
            faulty[name] = exact | results(remembered(mutant(fault), kept, fault), taps, taps & wanted)
    for key, (honest, _) in exact.items():
        if key[1] not in wanted or not (key in evidence.observed or key in evidence.misshapen):
            continue
        layer, operation = split_tap(key[1])
        fence, mask = fenced(exhibit, key, honest, segments, factor)
        chosen_by = exact.get((key[0], tap_name(layer, graph.scores))) if operation == graph.choice else None
        yield Prediction(
            key=key,
            exact=honest,
            faulty={name: found[key][0] for name, found in faulty.items()},
            fence=fence,
            mask=mask,
            noise=None if segments is None else segments.deviation.get(key),
            probabilities=None if chosen_by is None else chosen_by[1],
        )


def is_in(layers: Mapping[str, Collection[int | None]], layer: int | None, operation: str) -> bool:
    """Return whether a layer of an operation is of interest; no layers of it stand for all."""
    return operation in layers and (not layers[operation] or layer in layers[operation])


def fenced(exhibit: Exhibit, key: Key, exact: Exact, segments: Segments | None, factor: float) -> tuple[Fence, Array]:
    """Return the fence of a tap, and the mask of what is compared of it."""
    evidence, (call, tap) = exhibit.evidence, key
    operation = split_tap(tap)[1]
    recorded = evidence.observed[key].recorded if key in evidence.observed else evidence.recorded[operation]
    fence, mask = fence_of(exact, recorded, factor), np.broadcast_to(evidence.masks[call, operation], exact.value.shape)
    if segments is None:
        return fence, mask
    axes, noise = evidence.graph.specs[operation].axes, segments.deviation.get(key)
    decided = segments.decided(key, exact.value, axes)
    return fence if noise is None else widened(fence, noise, factor), mask & decided


Kept = dict[tuple[str, int], tuple[Sequence[Array], Exact]]
"""What every operation read and gave without a fault, by its tap and the identity of its call's tokens."""


def remembered(evaluator: Evaluator, kept: Kept, fault: Fault | None = None) -> Evaluator:
    """Return an evaluator that keeps what it works out without a fault, or takes it from there with one.

    It is the same up to where the fault first changes something: an operation that it leaves alone and that reads the
    very arrays that it read without it, or caches that are equal, gives what it gave.
    """

    def evaluate_once(
        tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan
    ) -> Exact:
        operation, place = weights.graph.computed_by(tap, scope.config, plan), (tap, id(scope.tokens))
        read = [values[name] for name in weights.graph.resolve_inputs(operation.inputs, tap, scope.config)]
        if fault is None:
            kept[place] = read, evaluator(tap, scope, weights, values, plan)
            return kept[place][1]
        if place in kept and change_of(fault, tap, weights) is None:
            copies = split_tap(tap)[1] in weights.graph.copies
            pairs = zip(read, kept[place][0], strict=True)
            if all(one is other or (copies and np.array_equal(one, other)) for one, other in pairs):
                return kept[place][1]
        return evaluator(tap, scope, weights, values, plan)

    return evaluate_once


def only(taps: Collection[str], evaluator: Evaluator) -> Evaluator:
    """Return an evaluator that works out some taps and leaves the others, which are shown, blank."""

    def evaluate_some(
        tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan
    ) -> Exact:
        return evaluator(tap, scope, weights, values, plan) if tap in taps else Exact(np.empty(0))

    return evaluate_some
