"""What a probe shows of every fault in what little engines show, by the noise model, and the search for better ones.

A port is emulated: the exact model with modelled noise, with a fault put in or without. What it shows, the logits in
some form and perhaps a few taps, is held to the local check as in a run. A fault's strength is measured / allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, tap_key
from grok_conformance.harness.cases.probes import PROBES
from grok_conformance.harness.cases.recipes import Recipe, draw
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.hidden import Segments, simulate
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.undecided import TIED
from grok_conformance.harness.contract import (
    ALL_LOGITS,
    DTYPES,
    LOGITS,
    Array,
    CandidateInfo,
    LogitForm,
    select_taps,
    split_tap,
)
from grok_conformance.harness.faults import Fault, mutant
from grok_conformance.harness.graph.forms import log_softmax
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, evaluate, walk
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.measure.noise import honest_result

HONEST = ""
"""The name under which the strength of an honest port is told: it must stay below 1."""

OF_THE_CHOICE = (*GROK_1.by_name[GROK_1.scores].inputs, GROK_1.scores)
"""What the choice of experts is made of, in which experts with the same column are tied."""

NUM_ELEMENTS = 10**6
"""Elements of a run over the probes."""

STRONG = 3.0
"""A fault as strong as this gains nothing by being stronger."""

TUNED = ("query_gain", "attention_output", "expert_output", "activation", "activation_gain", "router", "moe_update",
         "router_deviation", "attention_update", "constant")  # fmt: skip
"""The fields of a recipe that the search may change, by factors."""


@dataclass(frozen=True)
class Shown:
    """A case of a probe, ready to be judged in one form: what hidden operations pass on is measured once."""

    preset: Preset
    case: Case
    weights: ExactWeights
    info: CandidateInfo
    segments: Segments
    evaluator: Evaluator


def prepare(preset: Preset, case: Case, form: LogitForm = ALL_LOGITS, taps: tuple[str, ...] = (LOGITS,)) -> Shown:
    """Measure the noise of a case of which some taps are shown, the logits in a form."""
    weights = ExactWeights(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    info = CandidateInfo(name="probe", version="", taps=taps, logits=form)
    exact = emulated(preset, case, weights, evaluate, seed=0)
    exhibit = exhibit_of(preset, case, info, in_form(exact, case, info), weights)
    return Shown(
        preset, case, weights, info, simulate(exhibit, rows_apart=True), remembered() if taps == (LOGITS,) else evaluate
    )


def remembered() -> Evaluator:
    """Return an evaluator that works out every operation of a call once: where logits alone are shown none changes."""
    known: dict[tuple[str, bytes, bytes], Exact] = {}

    def recall(tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan) -> Exact:
        key = (tap, scope.tokens.tobytes(), scope.steps.tobytes())
        if key not in known:
            known[key] = evaluate(tap, scope, weights, values, plan)
        return known[key]

    return recall


def emulated(preset: Preset, case: Case, weights: ExactWeights, evaluator: Evaluator, seed: int) -> dict[str, Array]:
    """Return the taps of an emulated port, by `call0/logits`."""
    random = np.random.default_rng(seed)
    kept = weights.graph.recorded_dtypes(weights.config, preset.weights)

    def perturb(tap: str, exact: Exact) -> Array:
        made = honest_result(exact, kept[split_tap(tap)[1]], random)
        return tied_alike(exact.value, made) if split_tap(tap)[1] in OF_THE_CHOICE else made

    walked = walk(preset, case, weights=weights, evaluator=evaluator, perturb=perturb)
    return {tap_key(call, tap): x.astype(DTYPES[kept[split_tap(tap)[1]]]) for call, tap, _, x in walked}


def tied_alike(exact: Array, made: Array) -> Array:
    """Return noisy scores [.., e] in which those of equal columns are equal, as every port computes them."""
    near = np.abs(exact[..., :, None] - exact[..., None, :]) <= TIED * (1 + np.abs(exact[..., None]))
    alike: Array = np.take_along_axis(made, near.argmax(-1), -1)
    return alike


def in_form(taps: Mapping[str, Array], case: Case, info: CandidateInfo) -> dict[str, Array]:
    """Return of a port's taps those that it says it shows, the logits in the form that it declares."""
    given = {}
    for i, call in enumerate(case.calls):
        names = [key for key in taps if key.startswith(tap_key(i, ""))]
        for key in names:
            tap = key.removeprefix(tap_key(i, ""))
            if select_taps([tap], info.taps):
                given[key] = _shown(taps[key], call.lengths, info.logits) if tap == LOGITS else taps[key]
    return given


def _shown(logits: Array, lengths: Array, form: LogitForm) -> Array:
    x: Array = logits if form.kind == ALL_LOGITS.kind else log_softmax(logits.astype(np.float64)).astype(np.float32)
    if form.positions == "last":
        x = x[np.arange(len(x)), lengths - 1][:, None]
    if form.kind == "tokens":
        greedy: Array = np.argmax(x, -1).astype(np.int32)
        return greedy
    if form.top is not None and form.top < x.shape[-1]:
        x = np.where(x >= np.sort(x, -1)[..., -form.top, None], x, np.float32(-np.inf))
    return x


def strength(shown: Shown, taps: Mapping[str, Array]) -> float:
    """Return measured / allowed of the worst statistic of what a port shows in a case."""
    given = in_form(taps, shown.case, shown.info)
    exhibit = exhibit_of(shown.preset, shown.case, shown.info, given, shown.weights)
    found = check_case(exhibit, num_elements=NUM_ELEMENTS, segments=shown.segments, evaluator=shown.evaluator)
    return max(comparison.ratio for comparison in found)


def strengths(shown: Collection[Shown], faults: Mapping[str, Fault], seed: int = 1) -> dict[str, list[float]]:
    """Return the strength of every fault, and of no fault, in one case shown in several forms, in their order."""
    first = next(iter(shown))
    found = {}
    for name, fault in {HONEST: None, **faults}.items():
        evaluator = evaluate if fault is None else mutant(fault)
        taps = emulated(first.preset, first.case, first.weights, evaluator, seed)
        found[name] = [strength(each, taps) for each in shown]
    return found


def score(found: Mapping[str, list[float]]) -> float:
    """Return how good a probe is: the mean of its faults' strengths up to `STRONG`, 0 if an honest port fails."""
    if max(found[HONEST]) > 1:
        return 0.0
    return float(np.mean([min(max(ratios), STRONG) for name, ratios in found.items() if name != HONEST]))


def search(
    probe: str,
    case: Case,
    faults: Mapping[str, Fault],
    num_trials: int,
    seed: int,
    on_trial: Callable[[float, Recipe], None] = lambda _score, _recipe: None,
) -> tuple[float, Recipe]:
    """Change a probe's recipe at random for so many trials, keep what scores best, and return it with its score."""
    random = np.random.default_rng(seed)
    config, best = PROBES[probe].config, PROBES[probe].recipe

    def scored(recipe: Recipe) -> float:
        preset = Preset(probe, config, draw(config, recipe))
        return score(strengths([prepare(preset, case)], faults))

    best_score = scored(best)
    for _ in range(num_trials):
        changed = {name: getattr(best, name) * float(np.exp(0.4 * random.standard_normal())) for name in TUNED}
        recipe = replace(best, **changed)
        found = scored(recipe)
        on_trial(found, recipe)
        if found > best_score:
            best_score, best = found, recipe
    return best_score, best
