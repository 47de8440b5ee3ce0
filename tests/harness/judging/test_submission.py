"""The parts of a submission are judged apart as all of it is judged."""

from __future__ import annotations

from pathlib import Path

from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.judging.submission import Submission, judge_submission, together
from tests.harness.honest_port import NUM_ELEMENTS, answered, group_of, honest_taps

NARROW, WIDE = "unequal/prefill/single_token.bfloat16", "unequal/prefill/single_token.float32"
TAP = "call0/layers.01.attention.value"


def submission(folder: Path) -> Submission:
    """Return answers in both compute dtypes, of which the narrow one is wrong at one tap."""
    right = honest_taps(NARROW, 3)
    taps = {NARROW: {**right, TAP: -right[TAP]}, WIDE: honest_taps(WIDE, 3)}
    answers = tuple({case: answered(folder / f"{number}", taps[case])} for number, case in enumerate((NARROW, WIDE)))
    return Submission((group_of(NARROW), group_of(WIDE)), answers, NUM_ELEMENTS)


def test_a_part_has_the_groups_of_its_compute_dtype_and_their_answers(tmp_path: Path) -> None:
    whole = submission(tmp_path)
    assert whole.fprop_dtypes == ("bfloat16", "float32")
    for dtype, case_id in (("bfloat16", NARROW), ("float32", WIDE)):
        part = whole.in_dtype(dtype)
        assert [case.id for group in part.groups for case in group.cases] == [case_id]
        assert [list(each) for each in part.answers] == [[case_id]]


def test_what_is_judged_apart_and_put_together_is_what_is_judged_at_once(tmp_path: Path) -> None:
    whole = submission(tmp_path)
    at_once = judge_candidate(whole.groups, whole.answers, NUM_ELEMENTS, {})
    parts = {dtype: judge_submission(whole.in_dtype(dtype), {}) for dtype in reversed(whole.fprop_dtypes)}
    assert [verdict.status for each in at_once for verdict in each.verdicts] == ["fail", "pass"]
    assert together(whole, parts) == at_once
