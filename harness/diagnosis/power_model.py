"""The chance that a known fault is found, from the noise model alone, before anything is run (ARCHITECTURE: power).

A draw is what a port with the fault may have computed: modelled noise and one rounding at every operation. At these
inputs the fault moves an operation's result by d = faulty − exact; noise is drawn for that too, and the local check is
asked, of every tap, pooled over the layers, and in every permitted way. The share of draws that fail is the power.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, steps_before, tap_key
from grok_conformance.harness.checks.evidence import Evidence, Key, in_memory
from grok_conformance.harness.checks.exhibit import Exhibit, exhibit_of
from grok_conformance.harness.checks.local import failing_together
from grok_conformance.harness.checks.operation_by_operation import fencing_of, slack_of
from grok_conformance.harness.checks.ways import choose_ways
from grok_conformance.harness.contract import LEVELS, Array, CandidateInfo, split_tap
from grok_conformance.harness.diagnosis.power import taps_of_level
from grok_conformance.harness.diagnosis.prediction import Prediction, predict
from grok_conformance.harness.faults import FAULTS, Fault, mutant
from grok_conformance.harness.graph.oracle import ExactWeights, walk
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.blocks import Pair
from grok_conformance.harness.measure.comparison import Comparison, compare, compare_routing
from grok_conformance.harness.measure.noise import honest_result, margin, tail_factor

NUM_DRAWS = 20

GENERAL = ("unequal/prefill/padded_batch.*", "stress/prefill/saturated_cap.*")
"""Cases in which every fault is tried, whatever it is meant to be shown by."""


def power_of_case(
    preset: Preset,
    case: Case,
    inputs: Mapping[str, Array],
    taps: Collection[str],
    faults: Mapping[str, Fault],
    num_elements: int,
    weights: ExactWeights | None = None,
) -> dict[str, float]:
    """Return the power of each fault in one case for a candidate that shows some taps (globs).

    `inputs` are the golden values by `call0/TAP`, `num_elements` is the size of the run. Golden values are the inputs
    of every draw where taps are hidden, since every fence then takes many walks through the model, and of a fault
    that chooses other experts, since modelled noise would break the exact ties. A fault that changes nothing in the
    case has no entry.
    """
    weights = weights or ExactWeights(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    info = CandidateInfo(name="golden", version="", taps=tuple(taps))
    random = np.random.default_rng(0)
    fences = {"factor": tail_factor(num_elements), "margin": margin(num_elements)}
    everywhere: dict[str, tuple[int, ...]] = {spec.operation: () for spec in weights.graph.taps}

    def shown_as(values: Mapping[str, Array]) -> Exhibit:
        return exhibit_of(preset, case, info, values, weights)

    golden = shown_as(inputs)
    hidden = list(predict(golden, everywhere, faults, **fences)) if golden.hides_taps else None
    power = {}
    for name, fault in faults.items():
        still = hidden or fault.operations == (weights.graph.choice,)
        draws = []
        for _ in range(NUM_DRAWS):
            exhibit = golden if still else shown_as(shown_by_port(golden, fault, random))
            own = dict.fromkeys(fault.operations, ())
            predictions = hidden or list(predict(exhibit, own, {name: fault}, **fences))
            draws.append(found_in(exhibit, predictions, name, num_elements, random))
        if any(found is not None for found in draws):
            power[name] = draws.count(True) / NUM_DRAWS
    return power


def shown_by_port(golden: Exhibit, fault: Fault, random: np.random.Generator) -> dict[str, Array]:
    """Return one draw of what a port with a fault, honest otherwise, shows in a case, by `call0/TAP`."""
    recorded = golden.evidence.recorded

    def emulate(tap: str, exact: Exact) -> Array:
        return honest_result(exact, recorded[split_tap(tap)[1]], random)

    walked = walk(golden.preset, golden.case, weights=golden.weights, perturb=emulate, evaluator=mutant(fault))
    return {
        tap_key(call, tap): value.astype(np.int32 if recorded[split_tap(tap)[1]] == "int32" else np.float32)
        for call, tap, _, value in walked
    }


def found_in(
    exhibit: Exhibit,
    predictions: Sequence[Prediction],
    fault: str,
    num_elements: int,
    random: np.random.Generator,
) -> bool | None:
    """Return whether a fault is found in one draw of the noise, None where it changes nothing that is compared."""
    if exhibit.evidence.misshapen:
        return True
    rows: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        rows.setdefault(prediction.operation, []).append(prediction)
    changed = [row for row in rows.values() if any(is_changed(prediction, fault) for prediction in row)]
    return any(fails_at(exhibit, row, fault, num_elements, random) for row in changed) if changed else None


def is_changed(prediction: Prediction, fault: str) -> bool:
    """Return whether a fault changes anything that is compared at a tap."""
    exact, faulty = prediction.exact.value, prediction.faulty.get(fault, prediction.exact).value
    return faulty.shape != exact.shape or bool((faulty != exact)[prediction.mask].any())


def fails_at(
    exhibit: Exhibit, row: Sequence[Prediction], fault: str, num_elements: int, random: np.random.Generator
) -> bool:
    """Return whether one operation, all of whose taps are given, fails in one draw of the noise on a fault's results.

    As in a run it fails if no permitted way to compute it fixes that; those are not tried around hidden taps.
    """
    given = {prediction.key: prediction.faulty.get(fault, prediction.exact) for prediction in row}
    if any(given[prediction.key].value.shape != prediction.exact.value.shape for prediction in row):
        return True
    factor = tail_factor(num_elements)
    routed = [
        compare_routing(*one.key, scores, given[one.key].value, one.mask, slack_of(Exact(scores), None, factor))
        for one in row
        if (scores := one.probabilities) is not None
    ]
    if routed:
        return any(not one.passed or bool(one.note) for one in routed)
    seen = {prediction.key: drawn(exhibit, prediction, given[prediction.key], random) for prediction in row}
    local = {exhibit.case.id: [compared(exhibit, prediction, seen[prediction.key]) for prediction in row]}
    shown = [replace(exhibit, evidence=showing(exhibit, seen))]
    if not exhibit.hides_taps:
        _, local = choose_ways(shown, local, num_elements)
    return not all(one.passed for one in local[exhibit.case.id]) or bool(failing_together(shown, local))


def drawn(exhibit: Exhibit, prediction: Prediction, given: Exact, random: np.random.Generator) -> Array:
    """Return what a port shows at a tap whose operation gave an exact or a faulty result."""
    inherited = 0.0 if prediction.noise is None else prediction.noise
    recorded = exhibit.evidence.observed[prediction.key].recorded
    return honest_result(replace(given, inherited=inherited), recorded, random)


def compared(exhibit: Exhibit, prediction: Prediction, observed: Array) -> Comparison:
    """Return the local check of one tap."""
    (call, tap), exact = prediction.key, prediction.exact
    recorded, steps = exhibit.evidence.observed[call, tap].recorded, steps_before(exhibit.case, call)
    factor, config = prediction.fence.factor, exhibit.evidence.config
    graph = exhibit.evidence.graph
    copied = steps if prediction.operation in graph.copies else None
    fencing = fencing_of(exact, recorded, factor, config, prediction.noise, copied)
    axes = graph.specs[prediction.operation].axes
    return compare(Pair((call, tap), axes, exact, fencing, observed, prediction.mask, recorded))


def showing(exhibit: Exhibit, seen: Mapping[Key, Array]) -> Evidence:
    """Return the evidence of a case with other values at some taps."""
    evidence = exhibit.evidence
    observed = {
        key: replace(evidence.observed[key], given=in_memory(value), mask=np.True_) for key, value in seen.items()
    }
    return replace(evidence, observed={**evidence.observed, **observed})


def power_by_level(
    preset: Preset, case: Case, inputs: Mapping[str, Array], num_elements: int
) -> dict[str, dict[str, float]]:
    """Return by level the power of every fault that a case is meant to show, of all of them in a general case.

    `inputs` are the golden taps, `num_elements` is the size of a run over all cases.
    """
    weights = ExactWeights(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    faults = faults_shown_by(case.id)
    return {
        level: power_of_case(preset, case, inputs, taps_of_level(level), faults, num_elements, weights)
        for level in (LEVELS if faults else ())
    }


def faults_shown_by(case: str) -> dict[str, Fault]:
    """Return the faults with a mutant that a case is meant to show, all in a general case."""
    general = any(fnmatch.fnmatchcase(case, pattern) for pattern in GENERAL)
    return {
        name: fault
        for name, fault in FAULTS.items()
        if fault.changes and (general or any(fnmatch.fnmatchcase(case, pattern) for pattern in fault.shown_by))
    }
