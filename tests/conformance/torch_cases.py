"""Runs `torch_eager` in this process over golden cases, and checks what it shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from grok_conformance.candidates import torch_eager
from grok_conformance.harness.cases.case import Case, Preset, tap_key
from grok_conformance.harness.checks.exhibit import Exhibit, exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import Array, CandidateInfo, tap_names
from grok_conformance.harness.golden.reading import case_ids
from grok_conformance.harness.measure.comparison import Comparison
from tests.harness.honest_port import exact_weights, golden, golden_case

NUM_ELEMENTS = 10**7


def golden_cases(pattern: str) -> tuple[str, ...]:
    return case_ids(golden(), pattern)


def torch_taps(preset: Preset, case: Case, taps: Collection[str] = ("*",)) -> dict[str, Array]:
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    model = torch_eager.load(config, preset.weights)
    if case.preload is not None:
        model.preload(*(np.array(x) for x in (case.preload.keys, case.preload.values, case.preload.steps)))
    shown: dict[str, Array] = {}
    for i, call in enumerate(case.calls):
        tokens, lengths = np.array(call.tokens), np.array(call.lengths)
        if call.kind == "decode":
            made = model.decode(tokens, taps)
        else:
            made = (model.prefill if call.kind == "prefill" else model.extend)(tokens, lengths, taps)
        shown |= {tap_key(i, tap): value for tap, value in made.items()}
    return shown


def check(
    preset: Preset, case: Case, taps: Mapping[str, Array], info: CandidateInfo = torch_eager.INFO
) -> list[Comparison]:
    return check_case(exhibit_of(preset, case, info, taps), num_elements=NUM_ELEMENTS)


def exhibits(pattern: str, dtype: str) -> tuple[list[Exhibit], list[list[Comparison]]]:
    """Run the port over the cases of a dtype that a glob matches: what it showed, and the local checks of each case."""
    shown, comparisons = [], []
    for case_id in (name for name in golden_cases(pattern) if name.endswith(dtype)):
        preset, case = golden_case(case_id)
        weights = exact_weights(preset.name, case.fprop_dtype)
        shown.append(exhibit_of(preset, case, torch_eager.INFO, torch_taps(preset, case), weights))
        comparisons.append(check_case(shown[-1], num_elements=NUM_ELEMENTS))
    return shown, comparisons


def at_fault(comparisons: Collection[Comparison]) -> set[str]:
    return {comparison.operation for comparison in comparisons if not comparison.passed}


def all_taps(preset: Preset) -> tuple[str, ...]:
    return tap_names(preset.config)
