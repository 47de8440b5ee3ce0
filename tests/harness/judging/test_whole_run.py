"""A case held end to end: which are, and what excuses a port that masks by length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.cases.drawn import drawn_id
from grok_conformance.harness.contract import ALL_LOGITS, Array, LogitForm
from grok_conformance.harness.graph.oracle import ExactWeights, evaluate
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.judging.judge import judge_candidate
from tests.harness.checks.logit_forms import FORMS, logits_of
from tests.harness.honest_port import INFO, NUM_ELEMENTS, answered, golden_case, group_of, honest_taps

PREFILL = "unequal/prefill/padded_batch.bfloat16"
LEADING_PADS, DECODED_PAD = "unequal/prefill/leading_pads.bfloat16", "unequal/decode/pad_token.float32"


def masking_by_length(
    tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan
) -> Exact:
    """Apply an operation as an engine does whose masks know lengths, and no token ids."""
    b, t, s = scope.visible.shape
    last = scope.steps[:, None] + np.arange(t)
    causal = np.broadcast_to(np.arange(s) <= last[..., None], (b, t, s))
    return evaluate(tap, replace(scope, visible=causal), weights, values, plan)


def status_of_logits(folder: Path, case_id: str, taps: Mapping[str, Array], form: LogitForm = ALL_LOGITS) -> str:
    """Return the status of a port that shows nothing but logits in one case, in some form."""
    answer = answered(folder, logits_of(case_id, taps, form), info=replace(INFO, taps=("logits",), logits=form))
    (judged,) = judge_candidate([group_of(case_id)], [{case_id: answer}], NUM_ELEMENTS, {})
    return judged.verdicts[0].status


@pytest.mark.parametrize("case_id", [LEADING_PADS, DECODED_PAD])
def test_a_port_that_shows_logits_alone_and_masks_by_length_misses_a_quirk_and_fails_nothing(
    case_id: str, tmp_path: Path
) -> None:
    taps = honest_taps(case_id, 31, evaluator=masking_by_length)
    assert status_of_logits(tmp_path / "by length", case_id, taps) == "quirk"
    assert status_of_logits(tmp_path / "as published", case_id, honest_taps(case_id, 31)) != "fail"


@pytest.mark.parametrize("form", FORMS)
def test_so_does_one_that_shows_them_in_another_form(form: str, tmp_path: Path) -> None:
    taps = honest_taps(DECODED_PAD, 31, evaluator=masking_by_length)
    assert status_of_logits(tmp_path, DECODED_PAD, taps, FORMS[form]) != "fail"


def test_what_strays_in_a_row_without_a_pad_is_no_quirk(tmp_path: Path) -> None:
    taps = honest_taps(DECODED_PAD, 31, evaluator=masking_by_length)
    wrong = {key: (x.astype(np.float64) * 1.2).astype(x.dtype) for key, x in taps.items()}
    assert status_of_logits(tmp_path, DECODED_PAD, wrong) == "fail"


@pytest.mark.parametrize("taps", [("*",), ("logits",)])
def test_a_drawn_case_is_held_end_to_end_only_where_something_is_hidden(taps: tuple[str, ...], tmp_path: Path) -> None:
    _, case = golden_case(PREFILL)
    drawn = replace(case, id=drawn_id(case.id, "redrawn", 5))
    group = replace(group_of(PREFILL), cases=(drawn,), expected=lambda _case_id: {})
    shown = {key: x for key, x in honest_taps(PREFILL, 31).items() if taps == ("*",) or key == "call0/logits"}
    answer = answered(tmp_path, shown, info=replace(INFO, taps=taps))
    (judged,) = judge_candidate([group], [{drawn.id: answer}], NUM_ELEMENTS, {})
    assert [verdict.status for verdict in judged.verdicts] == ["pass"]
    assert bool(judged.verdicts[0].drifts) == (taps != ("*",))
