"""Where the mutant of a fault differs from the oracle, over the golden cases that show it."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.faults import Fault, mutant
from grok_conformance.harness.golden.reading import case_ids
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import walk
from tests.harness.honest_port import exact_weights, golden, golden_case

GENERAL = "unequal/prefill/padded_batch.*"


def differing(fault: Fault, dtype: str) -> tuple[set[str], set[str]]:
    """Return the operations at which a mutant differs from the oracle, and those that its row says it changes."""
    differs, changed = set(), set()
    for pattern in fault.shown_by if fault.shown_by != ("*",) else (GENERAL,):
        for case_id in (name for name in case_ids(golden(), pattern) if name.endswith(dtype)):
            preset, case = golden_case(case_id)
            weights = exact_weights(preset.name, dtype)
            exact = {(call, tap): value for call, tap, _, value in walk(preset, case, weights=weights)}
            shown = dict(exact)
            faulty = walk(preset, case, lambda *key, seen=shown: seen[key], weights=weights, evaluator=mutant(fault))
            differs |= {
                split_tap(tap)[1] for call, tap, x, _ in faulty if not np.array_equal(x.value, exact[call, tap])
            }
            rows = {tap: GROK_1.operation_of(tap, preset.config).name for _, tap in exact}
            changed |= {split_tap(tap)[1] for tap, row in rows.items() if row in fault.changes}
    return differs, changed
