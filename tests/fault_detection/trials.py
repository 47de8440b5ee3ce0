"""One trial: a fault put into the oracle or into the torch port, run over the cases that show it, and judged."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.cases.case import Call, Case, Preset
from grok_conformance.harness.cases.suite import PRESETS
from grok_conformance.harness.cases.synthesis import synthesize
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import Array, CandidateInfo
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.faults import Fault, mutant
from grok_conformance.harness.golden.reading import case_ids
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, Plans
from grok_conformance.harness.judging.agreement import in_agreement, with_agreement
from grok_conformance.harness.judging.operations import JudgedOperations, judge_operations, seen_to_fail
from tests.conformance.port_patch import patched
from tests.conformance.porting_faults import FAULTS as PATCHES
from tests.conformance.torch_cases import torch_taps
from tests.harness.honest_port import INFO, NUM_ELEMENTS, golden, golden_case, noisy_taps

DTYPES = ("float32", "bfloat16")

GOLDEN_DRAW = 0
"""The draw of the golden weights and tokens; others are fresh."""


@dataclass(frozen=True)
class Judged:
    """What the harness says of one mutant."""

    found: JudgedOperations

    @property
    def failing(self) -> frozenset[str]:
        """The operations at fault."""
        return self.found.failing

    @property
    def noted(self) -> frozenset[str]:
        """Others of which a note is made."""
        return self.found.noted

    @property
    def diagnoses(self) -> Mapping[str, Diagnosis]:
        """The likely faults of both."""
        return self.found.diagnoses

    @property
    def detected(self) -> bool:
        """Whether an operation fails, or a note is made of it."""
        return bool(self.failing or self.noted)

    def located(self, operations: Collection[str]) -> bool:
        """Whether nothing but the operations that have the fault is blamed."""
        return self.detected and (self.failing | self.noted) <= set(operations)

    def named(self, fault: str) -> bool:
        """Whether every operation blamed is diagnosed, and with the fault, alone or in its class."""
        blamed = self.failing | self.noted
        return self.detected and all(
            operation in self.diagnoses and fault in self.diagnoses[operation].faults for operation in blamed
        )


@functools.lru_cache(maxsize=64)
def drawn(case_id: str, draw: int) -> tuple[Preset, Case, ExactWeights]:
    """Return a case with fresh weights and tokens, the golden ones for draw 0; pads stay where they are."""
    preset, case = golden_case(case_id)
    if draw != GOLDEN_DRAW:
        row = PRESETS[preset.name]
        statistics = replace(row.statistics, seed=1000 * draw + row.statistics.seed)
        preset = Preset(preset.name, row.config, synthesize(row.config, statistics))
        random = np.random.default_rng(draw)
        case = replace(case, calls=tuple(redrawn(call, preset, random) for call in case.calls))
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    return preset, case, ExactWeights(config, preset.weights)


def redrawn(call: Call, preset: Preset, random: np.random.Generator) -> Call:
    """Return a call with other real tokens."""
    pad = preset.config.pad_token
    tokens = random.integers(pad + 1, preset.config.vocab_size, call.tokens.shape, dtype=np.int32)
    return replace(call, tokens=np.where(call.tokens > pad, tokens, call.tokens))


def cases_of(fault: Fault, dtype: str) -> tuple[str, ...]:
    """Return the golden cases of a compute dtype that show a fault."""
    return tuple(
        case_id
        for case_id in case_ids(golden(), f"*.{dtype}")
        if any(fnmatch.fnmatchcase(case_id, pattern) for pattern in fault.shown_by)
    )


def judge(
    answers: Sequence[tuple[Preset, Case, ExactWeights, Mapping[str, Array]]], info: CandidateInfo = INFO
) -> Judged:
    """Judge what a port showed in cases of one dtype, as a run does it operation by operation, its ways included."""
    shown = [exhibit_of(preset, case, info, taps, weights) for preset, case, weights, taps in answers]
    (found,) = with_agreement({"": judge_operations(shown, NUM_ELEMENTS)}, in_agreement).values()
    return Judged(found)


def emulated(
    evaluator: Evaluator,
    cases: Sequence[str],
    draw: int,
    seed: int,
    info: CandidateInfo = INFO,
    plans: Plans | None = None,
) -> Judged:
    """Judge the oracle with an evaluator's faults, every tap rounded after modelled noise.

    `info` has what it shows, `plans` how it rounds where that is not as published.
    """
    answers = []
    for case_id in cases:
        preset, case, weights = drawn(case_id, draw)
        answers.append(
            (preset, case, weights, noisy_taps(preset, case, weights, seed, evaluator=evaluator, plans=plans))
        )
    return judge(answers, info)


def is_detected(fault: Fault, case_id: str, seed: int) -> bool:
    """Return whether the oracle with a fault, all taps shown, fails in one case; what fails is not diagnosed."""
    preset, case, weights = drawn(case_id, GOLDEN_DRAW)
    shown = exhibit_of(preset, case, INFO, noisy_taps(preset, case, weights, seed, evaluator=mutant(fault)), weights)
    local = {case_id: check_case(shown, num_elements=NUM_ELEMENTS)}
    return Judged(seen_to_fail([shown], local, NUM_ELEMENTS)).detected


def in_torch(name: str, dtype: str, draw: int) -> Judged:
    """Judge the torch port with a fault patched in by hand."""
    answers = []
    with patched(PATCHES[name]):
        for case_id in (x for x in case_ids(golden(), PATCHES[name].cases) if x.endswith(dtype)):
            preset, case, weights = drawn(case_id, draw)
            answers.append((preset, case, weights, torch_taps(preset, case)))
    return judge(answers)


def both(one: Fault, other: Fault) -> Fault:
    """Return the two faults as one."""
    return replace(one, id=f"{one.id} and {other.id}", changes={**other.changes, **one.changes})


def mutant_of(fault: Fault, dtype: str, draw: int, seed: int) -> Judged:
    """Judge the oracle with a fault, over the cases that show it."""
    return emulated(mutant(fault), cases_of(fault, dtype), draw, seed)
