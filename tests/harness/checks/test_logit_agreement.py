from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pytest

from grok_conformance.harness.checks.end_to_end import Honest, honest_run, route_of
from grok_conformance.harness.checks.logit_agreement import (
    LogitAgreement,
    kl_divergence,
    logit_agreements,
    routing_margins,
)
from grok_conformance.harness.contract import Array
from grok_conformance.harness.measure.histogram import EDGES
from tests.harness.honest_port import evidence_of, exact_weights, golden_case, golden_taps

DECODE = "unequal/decode/unequal_lengths.float32"
NEAR_TIES = "realistic/prefill/near_ties.bfloat16"


@functools.cache
def honest(case_id: str) -> Honest:
    preset, case = golden_case(case_id)
    evidence = evidence_of(case_id, golden_taps(case_id))
    weights = exact_weights(preset.name, case.fprop_dtype)
    return honest_run(preset, case, route_of(evidence), weights, evidence.recorded)


def agreements(case_id: str, taps: Mapping[str, Array]) -> tuple[LogitAgreement, ...]:
    return logit_agreements(golden_case(case_id)[1], evidence_of(case_id, taps), honest(case_id), golden_taps(case_id))


def test_kl_divergence_is_zero_for_equal_distributions_and_as_computed_by_hand() -> None:
    exact = np.log(np.array([0.5, 0.5]))
    assert kl_divergence(exact, exact + 3) == pytest.approx(0)
    assert kl_divergence(exact, np.log(np.array([0.25, 0.75]))) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


def test_every_real_token_is_told_with_its_row_and_position() -> None:
    found = agreements(DECODE, golden_taps(DECODE))
    assert {(token.kind, token.row, token.position) for token in found if token.kind == "decode"} == {
        ("decode", 0, 6),
        ("decode", 0, 7),
        ("decode", 1, 4),
        ("decode", 1, 5),
    }
    assert sum(token.kind == "prefill" for token in found) == 10  # 6 and 4 real tokens


def test_the_golden_logits_agree_with_exact_and_with_themselves() -> None:
    for token in agreements(DECODE, golden_taps(DECODE)):
        assert token.top_1
        assert token.kl_divergence == token.expected_kl
        assert abs(token.kl_divergence) < 1e-9


def test_other_logits_diverge_and_only_at_the_token_that_has_them() -> None:
    wrong = np.array(golden_taps(DECODE)["call0/logits"])
    wrong[1, 2] = -30 * wrong[1, 2]
    found = agreements(DECODE, {**golden_taps(DECODE), "call0/logits": wrong})
    assert [(token.row, token.position) for token in found if not token.top_1] == [(1, 2)]
    assert max(found, key=lambda token: token.kl_divergence).kl_divergence > 0.5


def test_logits_that_are_not_shown_are_not_judged() -> None:
    without = {key: tap for key, tap in golden_taps(DECODE).items() if not key.endswith("logits")}
    assert agreements(DECODE, without) == ()


def test_more_choices_of_experts_lie_within_the_noise_of_bfloat16_than_within_that_of_float32() -> None:
    close = EDGES.index(1.0) + 1
    num_close = {}
    for case_id in (NEAR_TIES, NEAR_TIES.replace("bfloat16", "float32")):
        found = routing_margins(evidence_of(case_id, golden_taps(case_id)), honest(case_id))
        assert [margins.layer for margins in found] == [0, 1, 2]
        assert all(sum(margins.histogram) == 11 for margins in found)
        num_close[case_id] = sum(sum(margins.histogram[:close]) for margins in found)
    assert num_close[NEAR_TIES] > 5
    assert num_close[NEAR_TIES.replace("bfloat16", "float32")] < 3
