"""The experiments of the mutation session, each over the whole table; every one returns plain rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.matched_filter import diagnose
from grok_conformance.harness.diagnosis.power import taps_of_level
from grok_conformance.harness.diagnosis.power_model import power_of_case
from grok_conformance.harness.faults import FAULTS, Fault, mutant
from tests.conformance.impostors import CASES, NULLS, TARGETS
from tests.fault_detection.trials import (
    GOLDEN_DRAW,
    Judged,
    both,
    cases_of,
    drawn,
    emulated,
    in_torch,
    is_detected,
    mutant_of,
)
from tests.harness.honest_port import INFO, NUM_ELEMENTS, at_fault, check, golden_taps

MAX_HALVINGS = 40
POWER_SEEDS = range(10, 20)
"""Others than the one by which the smallest dose found was chosen."""

NUM_PAIRS = 40

HARMFUL = tuple(name for name, fault in FAULTS.items() if not fault.harmless)
IN_THE_ORACLE = tuple(name for name in HARMFUL if name != "top_k_tie_highest_index")
"""Faults for the oracle with modelled noise, which breaks every exact tie; the port shows what becomes of ties."""


@dataclass(frozen=True)
class Trial:
    """What became of one fault in one run: found at all, at its operations and no other, named there."""

    fault: str
    fprop_dtype: str
    draw: int
    detected: bool
    located: bool
    named: bool
    operations: tuple[str, ...]


def trial(fault: str, dtype: str, draw: int, judged: Judged) -> Trial:
    """Return a judgement as a row."""
    return Trial(
        fault,
        dtype,
        draw,
        judged.detected,
        judged.located(FAULTS[fault].operations),
        judged.named(fault),
        tuple(sorted(judged.failing | judged.noted)),
    )


def in_the_oracle(fault: str, dtype: str, draw: int) -> Trial:
    """Put a fault of the table into the oracle."""
    return trial(fault, dtype, draw, mutant_of(FAULTS[fault], dtype, draw, seed=draw + 1))


def in_the_port(fault: str, dtype: str, draw: int) -> Trial:
    """Put a fault into the torch port by its hand-written patch."""
    return trial(fault, dtype, draw, in_torch(fault, dtype, draw))


@dataclass(frozen=True)
class LeftOut:
    """A fault that the table does not know: still found, and what it was taken for, empty where unexplained."""

    fault: str
    fprop_dtype: str
    detected: bool
    taken_for: tuple[str, ...]


def left_out(fault: str, dtype: str) -> LeftOut:
    """Judge the oracle with a fault against a table without it and without those of its class."""
    judged = mutant_of(FAULTS[fault], dtype, GOLDEN_DRAW, seed=1)
    known = {name for each in rediagnosed(judged, FAULTS) for name in each.faults} | {fault}
    others = {name: row for name, row in FAULTS.items() if name not in known}
    found = {name for each in rediagnosed(judged, others) if not each.partly for name in each.faults}
    return LeftOut(fault, dtype, judged.detected, tuple(sorted(found)))


def rediagnosed(judged: Judged, faults: Mapping[str, Fault]) -> list[Diagnosis]:
    """Return the diagnoses of the residuals by another table of faults, each operation by itself."""
    failing = judged.failing | judged.noted
    return list(diagnose(judged.found.exhibits, list(judged.found.local.values()), failing, faults).values())


@dataclass(frozen=True)
class Pair:
    """Two faults at once, at different operations: whether each is named at its own."""

    faults: tuple[str, str]
    fprop_dtype: str
    named: bool


def pairs(seed: int = 0) -> list[tuple[str, str]]:
    """Draw pairs of faults that share a case and no operation."""
    possible = [
        (one, other)
        for one, other in itertools.combinations(IN_THE_ORACLE, 2)
        if set(FAULTS[one].shown_by) & set(FAULTS[other].shown_by)
        and not set(FAULTS[one].changes) & set(FAULTS[other].changes)
        and "top_1_only" not in (one, other)  # leaves arrays of another shape, in which nothing else can be seen
    ]
    chosen = np.random.default_rng(seed).permutation(len(possible))[:NUM_PAIRS]
    return [possible[i] for i in chosen]


def two_at_once(one: str, other: str, dtype: str) -> Pair:
    """Judge the oracle with two faults."""
    cases = tuple(x for x in cases_of(FAULTS[one], dtype) if x in cases_of(FAULTS[other], dtype))
    judged = emulated(mutant(both(FAULTS[one], FAULTS[other])), cases, GOLDEN_DRAW, seed=1)
    named = {
        name: any(
            name in found.faults
            for operation, found in judged.diagnoses.items()
            if operation in FAULTS[name].operations
        )
        for name in (one, other)
    }
    return Pair((one, other), dtype, all(named.values()))


@dataclass(frozen=True)
class Floor:
    """The smallest dose 2^-n of a fault that is still found, in the first case that shows it."""

    fault: str
    fprop_dtype: str
    halvings: int


def dose_response(fault: str, dtype: str) -> Floor:
    """Look by bisection for a dose of a fault that is found, and half of which is not."""
    case = cases_of(FAULTS[fault], dtype)[0]
    found, missed = -1, MAX_HALVINGS + 1
    while missed - found > 1:
        halvings = (found + missed) // 2
        if is_detected(replace(FAULTS[fault], dose=2.0**-halvings), case, seed=1):
            found = halvings
        else:
            missed = halvings
    return Floor(fault, dtype, found)


@dataclass(frozen=True)
class PowerCheck:
    """The power predicted for a dose of a fault in one case, and how often it was found in so many runs.

    `level` says which taps were shown.
    """

    fault: str
    fprop_dtype: str
    level: str
    dose: float
    predicted: float
    found: int
    runs: int


def power_checks(floor: Floor) -> list[PowerCheck]:
    """Compare predicted and observed power at the smallest dose found, at half and at a quarter of it.

    An expert's fault has none: each run searches the many ways to compute an expert, which takes hours over all.
    """
    fault, smallest = FAULTS[floor.fault], max(floor.halvings, 0)
    if any(operation.startswith("moe.expert_") for operation in fault.operations):
        return []
    return [
        power_check(replace(fault, dose=2.0**-halvings), floor.fprop_dtype, "caches", is_detected, POWER_SEEDS)
        for halvings in range(smallest, smallest + 3)
    ]


def blind_power_check(fault: str, dtype: str) -> PowerCheck:
    """Compare predicted and observed power of a whole fault in a port that shows nothing but its logits."""
    return power_check(FAULTS[fault], dtype, "logits", is_detected_in_logits, POWER_SEEDS[:1])


Detect = Callable[[Fault, str, int], bool]
"""Tells whether a fault is found in one case with one seed."""


def is_detected_in_logits(fault: Fault, case_id: str, seed: int) -> bool:
    """Return whether the oracle with a fault, nothing but the logits shown, fails in one case."""
    info = replace(INFO, taps=taps_of_level("logits"))
    return emulated(mutant(fault), (case_id,), GOLDEN_DRAW, seed, info).detected


def power_check(fault: Fault, dtype: str, level: str, detect: Detect, seeds: Sequence[int]) -> PowerCheck:
    """Compare predicted and observed power in the first case that shows a fault."""
    case_id, taps = cases_of(fault, dtype)[0], taps_of_level(level)
    preset, case, weights = drawn(case_id, GOLDEN_DRAW)
    predicted = power_of_case(preset, case, golden_taps(case_id), taps, {fault.id: fault}, NUM_ELEMENTS, weights).get(
        fault.id, 0.0
    )
    found = sum(detect(fault, case_id, seed) for seed in seeds)
    return PowerCheck(fault.id, dtype, level, fault.dose, predicted, found, len(seeds))


def scalable(fault: str) -> bool:
    """Return whether a fault has doses: not a choice of experts, which is right or wrong."""
    return "moe.expert_index" not in FAULTS[fault].operations


@dataclass(frozen=True)
class Null:
    """An impostor in place of one tap, and whether it was rejected there."""

    null: str
    operation: str
    fprop_dtype: str
    rejected: bool


def nulls(null: str, dtype: str) -> list[Null]:
    """Put an impostor in place of one tap of every operation, where it makes sense."""
    found = []
    for operation, kind, tap in TARGETS:
        case_id = f"{CASES[kind]}.{dtype}"
        shown = NULLS[null](case_id, tap)
        if shown is not None:
            blamed = at_fault(check(case_id, {**golden_taps(case_id), **shown}))
            found.append(Null(null, operation, dtype, operation.removesuffix(" of a dense block") in blamed))
    return found
