"""Known faults that hide below the noise of single values, where taps are hidden: what all values show together.

Around hidden operations every single value may stray far, in a narrow compute dtype most of all. What a known fault
would have done to all of them is known to the last digit, though, and no honest rounding does the same: the matched
filter that names a fault finds it too (ARCHITECTURE: class of faults).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.local import Local
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.matched_filter import NUM_WHERE_HIDDEN, diagnose
from grok_conformance.harness.faults import ALL_FAULTS, Fault
from grok_conformance.harness.measure.systematic import Systematic

CERTAIN = 15.0
"""Standard errors from 0 at which a fault's coefficient, which must be 1, is none of an honest port: few tokens may
make them, so that their distribution has wide tails."""

FEWEST_TOKENS = 8.0
"""Tokens of equal weight that must tell a mark: 15 is beyond one in a million of a t with 7 degrees of freedom."""

ROUNDINGS = ("precision",)
"""Kinds of faults that honest roundings may resemble, those apart that quantise."""

QUANTISATIONS = (
    "activations_*", "all_reduce_fp8", "attention_weights_fp8", "cache_*", "query_key_int8", "weights_fp8",
    "weights_int*", "weights_requantised",
)  # fmt: skip


def marking(faults: Mapping[str, Fault]) -> dict[str, Fault]:
    """Return the faults that leave a mark which no honest rounding leaves."""
    return {
        name: fault
        for name, fault in faults.items()
        if not fault.harmless
        and (fault.kind not in ROUNDINGS or any(fnmatch.fnmatchcase(name, glob) for glob in QUANTISATIONS))
    }


def marked(exhibits: Sequence[Exhibit], local: Local) -> tuple[Local, dict[str, Diagnosis]]:
    """Return the local checks with what the marks of known faults add to them, and the faults by operation.

    Only cases that hide taps and compute in a narrow dtype are looked at, the largest few of them; every other fault
    shows in single values.
    """
    blind = [
        one for one in exhibits if one.hides_taps and not one.quirk and one.evidence.config.fprop_dtype != "float32"
    ]
    told = sorted(blind, key=lambda one: -sum(c.num_elements for c in local[one.case.id]))[:NUM_WHERE_HIDDEN]
    operations = sorted({c.operation for one in told for c in local[one.case.id] if one.is_behind_hidden(c.tap)})
    made = diagnosed(operations, told, local)
    found = {name: made[name] for name in operations if name in made and is_certain(made[name])}
    for operation, diagnosis in found.items():
        local = with_mark(told, local, operation, diagnosis)
    return local, found


def diagnosed(operations: Sequence[str], told: Sequence[Exhibit], local: Local) -> dict[str, Diagnosis]:
    """Return the diagnosis of some operations in some cases, of those for which there is one.

    Every fault is walked once for all of them; where that cannot be, since one gives another shape, for each by itself.
    """
    if not operations:
        return {}
    try:
        checks = [local[one.case.id] for one in told]
        return diagnose(told, checks, operations, marking(ALL_FAULTS), in_part=False)  # nothing fails by itself
    except (ArithmeticError, IndexError, KeyError, ValueError):  # a fault of another shape among hidden taps
        alone = [] if len(operations) == 1 else operations
        return {name: each for one in alone for name, each in diagnosed([one], told, local).items()}


def is_certain(diagnosis: Diagnosis) -> bool:
    """Return whether enough tokens tell a fault that explains what they show, and none of an honest port does."""
    told = diagnosis.coefficient >= CERTAIN * diagnosis.standard_error and diagnosis.num_tokens >= FEWEST_TOKENS
    return told and bool(diagnosis.faults)


def with_mark(told: Sequence[Exhibit], local: Local, operation: str, diagnosis: Diagnosis) -> Local:
    """Return the local checks with the mark of a fault at the largest tap of an operation."""
    taps = [(c.num_elements, one.case.id, i) for one in told
            for i, c in enumerate(local[one.case.id]) if c.operation == operation]  # fmt: skip
    _, case, place = max(taps)
    error = diagnosis.standard_error
    mark = Systematic(f"mark of {diagnosis.likeliest}", diagnosis.coefficient, error, 0.0, error**-2, CERTAIN)
    made = list(local[case])
    made[place] = replace(made[place], systematic=(*made[place].systematic, mark))
    return {**local, case: made}
