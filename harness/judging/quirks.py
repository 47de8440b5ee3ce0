"""What fails only since a port does not reproduce a quirk of the published model, and what fails beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from grok_conformance.harness.cases.case import rows_with_quirk
from grok_conformance.harness.checks.end_to_end import Drift, Flip
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.graph.oracle import Evaluator, evaluate
from grok_conformance.harness.judging.verdict import case_status
from grok_conformance.harness.measure.comparison import Comparison


def quirks_among(exhibit: Exhibit, failing: Sequence[Comparison]) -> list[Comparison]:
    """Return what fails in a case of a published quirk because a port sees other keys than the published model does.

    What is not finite since such a value was not (a query that sees no key may give NaN) belongs to it. In the case of
    the tie rule, of a port that does not claim it, it is what hangs on the order of equal scores.
    """
    if exhibit.ties_are_open:
        return [comparison for comparison in failing if exhibit.hangs_on_ties(comparison)]
    masked = [comparison for comparison in failing if exhibit.quirk and exhibit.masked(comparison)]
    since = min((comparison.call for comparison in masked if not comparison.is_finite), default=math.inf)
    return [c for c in failing if c in masked or (not c.is_finite and c.call >= since)]


def strayed(
    comparisons: Sequence[Comparison], drifts: Sequence[Drift], flips: Sequence[Flip], choice: str
) -> list[Comparison]:
    """Return the comparisons of the taps that stray too far end to end, or choose other experts than they may.

    `choice` is the tap of chosen experts.
    """
    choices = [(flip.call, flip.layer) for flip in flips if not flip.excused]
    taps = {(drift.call, drift.tap) for drift in drifts if not drift.ratio <= 1}
    return [
        c for c in comparisons if (c.call, c.tap) in taps or (c.operation == choice and (c.call, c.layer) in choices)
    ]


def apart_from_quirks(exhibit: Exhibit) -> Exhibit | None:
    """Return a case of which only the rows without a quirk are compared, None where it has no such row or no other."""
    other = ~rows_with_quirk(exhibit.case, exhibit.evidence.config.pad_token)
    if other.all() or not other.any():
        return None
    specs = exhibit.evidence.graph.specs
    masks = {
        (call, operation): mask & other.reshape(-1, *[1] * (len(specs[operation].axes) - 1))
        for (call, operation), mask in exhibit.evidence.masks.items()
    }
    named = {call: tokens & other[:, None, None] for call, tokens in exhibit.evidence.named.items()}
    return replace(exhibit, evidence=replace(exhibit.evidence, masks=masks, named=named))


def wrong_in_other_rows(
    exhibit: Exhibit, failing: Sequence[Comparison], num_elements: int, evaluator: Evaluator = evaluate
) -> str:
    """Return the first of some failing taps that fails in rows without a quirk too, with its error; empty if none.

    `exhibit` is the case apart from its quirks; `evaluator` has the known deviations of the candidate.
    """
    rows = {exhibit.row_of(comparison) for comparison in failing}
    keys = {(comparison.call, comparison.tap) for comparison in failing}
    checked = check_case(exhibit, num_elements=num_elements, only=rows, evaluator=evaluator)
    wrong = [c for c in checked if not c.passed and (c.call, c.tap) in keys]
    return case_status(wrong, (), (), None)[1] if wrong else ""
