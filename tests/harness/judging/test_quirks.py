"""Published quirks that a port does not reproduce excuse the rows that hold them, and no others."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.cases.case import rows_with_quirk
from grok_conformance.harness.checks.end_to_end import Drift, Flip
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import Array
from grok_conformance.harness.judging.quirks import apart_from_quirks, quirks_among, strayed, wrong_in_other_rows
from grok_conformance.harness.measure.comparison import Comparison
from tests.harness.honest_port import NUM_ELEMENTS, evidence_of, exact_weights, golden_case, honest_taps, taps_of

CASE = "unequal/decode/pad_token.float32"
TAP = "call1/layers.00.attention.weights"


def shown(taps: dict[str, Array]) -> Exhibit:
    preset, case = golden_case(CASE)
    return Exhibit(preset, case, evidence_of(CASE, taps, taps_of(CASE)), exact_weights(preset.name, "float32"))


def wrong_in(rows: Array) -> Exhibit:
    """Return a port whose attention weights are wrong in the step of some rows."""
    taps = dict(honest_taps(CASE, 7))
    weights = taps[TAP].copy()
    weights[rows] = weights[rows] * 0.5
    return shown({**taps, TAP: weights})


def test_only_rows_with_a_pad_hold_the_quirk() -> None:
    _, case = golden_case(CASE)
    assert rows_with_quirk(case, 0).sum() == 1


def test_what_fails_in_the_row_with_the_pad_alone_is_a_quirk() -> None:
    _, case = golden_case(CASE)
    rows = rows_with_quirk(case, 0)
    for at, wrong in ((rows, False), (np.ones_like(rows), True)):
        port = wrong_in(at)
        failing = [c for c in check_case(port, num_elements=NUM_ELEMENTS) if not c.passed]
        assert quirks_among(port, failing)
        apart = apart_from_quirks(port)
        assert apart is not None
        assert bool(wrong_in_other_rows(apart, failing, NUM_ELEMENTS)) == wrong


def test_what_strays_end_to_end_or_chooses_other_experts_is_blamed() -> None:
    near, far = (Drift(0, tap, ratio, (0, 0), 1.0, 1.0, 1.0) for tap, ratio in (("logits", 0.5), ("final_norm", 2.0)))
    excused, wrong = (Flip(1, 0, (0, 0), gap, 0.1) for gap in (0.05, 0.2))
    made = [Comparison(0, "logits", 1), Comparison(0, "final_norm", 1), Comparison(1, "layers.00.moe.expert_index", 1)]
    assert strayed(made, [near], [excused], "moe.expert_index") == []
    assert strayed(made, [near, far], [wrong], "moe.expert_index") == made[1:]
