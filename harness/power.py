"""What a run can see: the chance that each known fault is found, known before anything is run (design: §5).

At the golden inputs a fault moves an operation's result by d = faulty − exact. Noise drawn from the noise model is
added, and the statistics of the local check are asked: the share of draws that fail is the power. The table is computed
once for every level of taps (`python -m tests.mutation` writes it) and looked up for a candidate.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.cases import Case, Preset, steps_before
from harness.compare import COPIES, compare, compare_routing
from harness.contract import LEVELS, Array, CandidateInfo, tap_specs
from harness.faults import FAULTS, Fault
from harness.local import fence_of_copy, gather
from harness.noise import ACCUMULATION_ROUNDOFF, Fence, tail_factor
from harness.operations.arithmetic import UNIT_ROUNDOFF, round_to
from harness.operations.row import Exact
from harness.oracle import ExactWeights
from harness.prediction import Exhibit, Prediction, predict

POWER_FILE = Path(__file__).parent / "faults" / "power.json"

NUM_DRAWS = 20
"""Draws of noise per tap and fault."""

CERTAIN = 3.0
"""A difference of so many fences in one element is found whatever the noise."""

VISIBLE = 0.5
"""A fault with less power than this cannot be counted on to be seen."""

GENERAL = ("unequal/prefill/padded_batch.*", "stress/prefill/saturated_cap.*")
"""Cases in which every fault is tried, whatever it is meant to be shown by."""

Table = Mapping[str, Mapping[str, Mapping[str, float]]]
"""The power by level, fault and case; what is not listed is 0."""


@dataclass(frozen=True)
class Power:
    """What one run could see in one compute dtype, at the level of a candidate.

    `probability` is the chance that a known fault is found, by its id; the faults below one half are `invisible`, and
    `not_asked` those for which no case of the run is meant.
    """

    fprop_dtype: str
    probability: Mapping[str, float]
    invisible: tuple[str, ...]
    not_asked: tuple[str, ...]


def taps_of_level(level: str) -> tuple[str, ...]:
    """Return the globs of all taps that a candidate of a level shows."""
    return tuple(spec.name for spec in tap_specs() if LEVELS.index(spec.level) <= LEVELS.index(level))


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

    `inputs` are values by `call0/TAP` to which the faults are applied: the golden ones. `num_elements` is the size of
    the run. A fault that changes nothing in the case has no entry.
    """
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    evidence = gather(preset, case, CandidateInfo(name="golden", version="", taps=tuple(taps)), inputs)
    exhibit = Exhibit(preset, case, evidence, weights or ExactWeights(config, preset.weights), {})
    random = np.random.default_rng(0)
    missed: dict[str, float] = {}
    operations: dict[str, tuple[int, ...]] = {spec.operation: () for spec in tap_specs()}
    for prediction in predict(exhibit, operations, faults, tail_factor(num_elements)):
        for name, faulty in prediction.faulty.items():
            found = chance(exhibit, prediction, faulty, random)
            if found is not None:
                missed[name] = missed.get(name, 1.0) * (1 - found)
    return {name: 1 - chance_missed for name, chance_missed in missed.items()}


def chance(exhibit: Exhibit, prediction: Prediction, faulty: Exact, random: np.random.Generator) -> float | None:
    """Return the chance that a fault is found at one tap, None where it changes nothing that is compared."""
    exact, (call, tap) = prediction.exact, prediction.key
    if faulty.value.shape != exact.value.shape:
        return 1.0
    difference = np.abs(faulty.value - exact.value)[prediction.mask]
    if not difference.any():
        return None
    if prediction.probabilities is not None:
        slack = 2 * UNIT_ROUNDOFF["float32"] * prediction.probabilities
        routed = compare_routing(call, tap, prediction.probabilities, faulty.value, prediction.mask, slack)
        return float(not routed.passed or bool(routed.note))
    recorded = exhibit.evidence.observed[prediction.key].recorded
    fence = fence_in_check(exhibit, prediction, recorded)
    if prediction.operation not in COPIES and (difference > CERTAIN * fence.allowed[prediction.mask]).any():
        return 1.0
    found = 0
    for _ in range(NUM_DRAWS):
        observed = faulty.value + noise_of(prediction, faulty.value, recorded, random)
        found += not compare(call, tap, exact, fence, observed, prediction.mask, recorded).passed
    return found / NUM_DRAWS


def fence_in_check(exhibit: Exhibit, prediction: Prediction, recorded: str) -> Fence:
    """Return the fence as the local check sets it: caches are copies."""
    if prediction.operation not in COPIES:
        return prediction.fence
    steps = steps_before(exhibit.case, prediction.key[0])
    return fence_of_copy(prediction.exact, prediction.fence, recorded, steps, exhibit.evidence.config)


def noise_of(prediction: Prediction, value: Array, recorded: str, random: np.random.Generator) -> Array:
    """Draw honest noise: one rounding to the recorded dtype, the roundings inside, what hidden operations pass on."""
    shape, exact = value.shape, prediction.exact
    if prediction.operation in COPIES:
        return round_to(value, recorded) - value  # a copy adds nothing but what its own values lose
    exponent = np.frexp(value)[1] - 1
    noise = np.ldexp(UNIT_ROUNDOFF[recorded], exponent) * random.uniform(-1, 1, shape)  # half a unit in the last place
    noise += ACCUMULATION_ROUNDOFF * np.asarray(exact.bound) / 2 * random.uniform(-1, 1, shape)
    noise += ACCUMULATION_ROUNDOFF / math.sqrt(3) * np.asarray(exact.spread) * random.standard_normal(shape)
    if prediction.noise is not None:
        noise += prediction.noise * random.standard_normal(shape)
    return np.where(value == 0, 0.0, noise)


def measure(
    cases: Iterable[tuple[Preset, Case, Mapping[str, Array]]],
    num_elements: int,
    on_progress: Callable[[str], None] = lambda _case: None,
) -> Table:
    """Return the power of every fault at every level, in the cases that are meant to show it and two general ones.

    Each case comes with its preset and golden taps; `num_elements` is the size of a run over all of them.
    """
    table: dict[str, dict[str, dict[str, float]]] = {level: {} for level in LEVELS}
    for preset, case, inputs in cases:
        weights = ExactWeights(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
        faults = faults_shown_by(case.id)
        for level in LEVELS if faults else ():
            found = power_of_case(preset, case, inputs, taps_of_level(level), faults, num_elements, weights)
            for name, power in found.items():
                table[level].setdefault(name, {})[case.id] = round(power, 4)
        on_progress(case.id)
    return table


def faults_shown_by(case: str) -> dict[str, Fault]:
    """Return the faults with a mutant that a case is meant to show, all in a general case."""
    general = any(fnmatch.fnmatchcase(case, pattern) for pattern in GENERAL)
    return {
        name: fault
        for name, fault in FAULTS.items()
        if fault.changes and (general or any(fnmatch.fnmatchcase(case, pattern) for pattern in fault.shown_by))
    }


@functools.cache
def power_table() -> Table:
    """Return the committed table."""
    table: Table = json.loads(POWER_FILE.read_text())["power"]
    return table


def power_of_run(level: str, cases: Iterable[tuple[str, str]], table: Table | None = None) -> tuple[Power, ...]:
    """Return what a run over some cases, (id, compute dtype), can see at a level, per compute dtype."""
    powers = (table or power_table()).get(level, {})
    by_dtype: dict[str, list[str]] = {}
    for case, dtype in cases:
        by_dtype.setdefault(dtype, []).append(case)
    return tuple(_power(dtype, ids, powers) for dtype, ids in sorted(by_dtype.items()))


def _power(dtype: str, cases: Sequence[str], powers: Mapping[str, Mapping[str, float]]) -> Power:
    known = {name: fault for name, fault in FAULTS.items() if not fault.harmless}
    asked = {
        name
        for name, fault in known.items()
        if any(fnmatch.fnmatchcase(case, pattern) for case in cases for pattern in fault.shown_by)
    }
    probability = {
        name: 1 - math.prod(1 - powers.get(name, {}).get(case, 0.0) for case in cases)
        for name in known
        if name in asked
    }
    return Power(
        fprop_dtype=dtype,
        probability=probability,
        invisible=tuple(name for name, chance_found in probability.items() if chance_found < VISIBLE),
        not_asked=tuple(name for name in known if name not in probability),
    )


def describe(power: Power) -> str:
    """Return a power statement in one line."""
    seen = len(power.probability) - len(power.invisible)
    text = f"{power.fprop_dtype}: {seen} of {len(power.probability)} known faults would be seen"
    return text + (f"; cannot see {', '.join(power.invisible)}" if power.invisible else "")
