"""Where the mutant of a fault differs from the oracle, over the golden cases and the sweeps that show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.cases.sweeps import PREFIX, sweeps
from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.faults import Fault, mutant
from grok_conformance.harness.golden.reading import case_ids
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import ExactWeights, walk
from tests.harness.honest_port import exact_weights, golden, golden_case

GENERAL = "unequal/prefill/padded_batch.*"


def cases_of(pattern: str, dtype: str) -> Iterator[tuple[Preset, Case, ExactWeights]]:
    """Yield the golden cases of a dtype that a pattern matches, or those of sweeps, drawn from a seed that has it."""
    if not pattern.startswith(PREFIX):
        for case_id in (name for name in case_ids(golden(), pattern) if name.endswith(dtype)):
            preset, case = golden_case(case_id)
            yield preset, case, exact_weights(preset.name, dtype)
        return
    for preset, cases in (found for seed in (0, 1) for found in sweeps(seed, pattern)):
        for case in (each for each in cases if each.fprop_dtype == dtype):
            config = replace(preset.config, fprop_dtype=dtype)
            yield preset, case, ExactWeights(config, preset.weights)


def differing(fault: Fault, dtype: str) -> tuple[set[str], set[str]]:
    """Return the operations at which a mutant differs from the oracle, and those that its row says it changes."""
    differs, changed = set(), set()
    for pattern in fault.shown_by if fault.shown_by != ("*",) else (GENERAL,):
        for preset, case, weights in cases_of(pattern, dtype):
            exact = {(call, tap): value for call, tap, _, value in walk(preset, case, weights=weights)}
            shown = dict(exact)
            faulty = walk(preset, case, lambda *key, seen=shown: seen[key], weights=weights, evaluator=mutant(fault))
            differs |= {
                split_tap(tap)[1] for call, tap, x, _ in faulty if not np.array_equal(x.value, exact[call, tap])
            }
            rows = {tap: GROK_1.operation_of(tap, preset.config).name for _, tap in exact}
            changed |= {split_tap(tap)[1] for tap, row in rows.items() if row in fault.changes}
    return differs, changed
