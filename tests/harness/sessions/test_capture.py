"""What capture lets through; that it runs the canonical model is shown where golden/v1 is captured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.cases.suite import suite_cases
from grok_conformance.harness.checks.loaded_weights import WeightProblem
from grok_conformance.harness.contract import Array
from grok_conformance.harness.golden.reading import FixtureError
from grok_conformance.harness.golden.writing import whole_folder
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict
from grok_conformance.harness.sessions import capture
from grok_conformance.harness.sessions.capture import gate, lacking, objections, suite_groups
from tests.harness.honest_port import answered, golden_taps, group_of

CASE = "float_weights/prefill/top_1.bfloat16"


def test_the_groups_of_the_suite_hold_every_case_once() -> None:
    names = [case.id for group in suite_groups() for case in group.cases]
    assert sorted(names) == sorted(case.id for case in suite_cases())


def through_the_gate(folder: Path, taps: Mapping[str, Array]) -> None:
    gate([group_of(CASE)], [{CASE: answered(folder, taps)}])


def test_what_conforms_passes_the_gate(tmp_path: Path) -> None:
    through_the_gate(tmp_path, golden_taps(CASE))


@pytest.mark.parametrize("tap", ["call0/layers.00.moe.expert_output", "call0/logits"])
def test_what_does_not_conform_is_not_written(tap: str, tmp_path: Path) -> None:
    wrong = np.array(golden_taps(CASE)[tap])
    wrong[0, 0] *= 2
    with pytest.raises(FixtureError, match=f"{CASE}: the canonical model is not conforming, .*; nothing was written"):
        through_the_gate(tmp_path, {**golden_taps(CASE), tap: wrong})


LEANING = ("unequal/chunked/two_chunks.float32", "unequal/prefill/padded_batch.float32")


def test_what_errs_in_common_over_cases_that_all_pass_is_not_written(tmp_path: Path) -> None:
    answers = {
        case: answered(tmp_path / case, {key: leaning(key, x) for key, x in golden_taps(case).items()})
        for case in LEANING
    }
    with pytest.raises(FixtureError, match=r"logits in float32: .*it rounds otherwise than published: .*; nothing"):
        gate([group_of(*LEANING)], [answers])


def leaning(key: str, x: Array) -> Array:
    """Return a tap, logits larger by one unit roundoff: too little to be seen in one case of these."""
    if not key.endswith("/logits"):
        return x
    larger: Array = (x.astype(np.float64) * (1 + 2.0**-24)).astype(x.dtype)
    return larger


HONEST = CandidateVerdict(name="reference", version="1", level="caches", cases=(), operations=(), seconds=0.0)


def test_wrong_weights_and_hidden_logits_are_objected_to() -> None:
    passing = replace(HONEST, cases=(CaseVerdict(case="a/b/c.float32", status="pass"),))
    wrong = WeightProblem(preset="dense", tensor="loaded/w", problem="transposed")
    assert objections(passing) == []
    assert objections(replace(passing, weights=(wrong,))) == [("dense: loaded/w", "transposed")]
    assert objections(replace(passing, level="none")) == [("reference", "its status is missing at level none")]


def test_a_tap_that_is_left_out_is_not_written(tmp_path: Path) -> None:
    taps = {key: x for key, x in golden_taps(CASE).items() if not key.endswith("moe.norm")}
    with pytest.raises(FixtureError, match="missing"):
        through_the_gate(tmp_path, taps)


def test_adding_runs_only_the_cases_that_a_set_lacks() -> None:
    groups = suite_groups()
    every = {case.id for group in groups for case in group.cases}
    left = lacking(groups, every - {CASE})
    assert [case.id for group in left for case in group.cases] == [CASE]
    assert lacking(groups, every) == []


def test_where_another_captures_the_model_is_not_even_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "canonical_answers", lambda *_: pytest.fail("it was run"))
    with whole_folder(tmp_path / "v1"), pytest.raises(FixtureError, match="another capture is writing"):
        capture.capture(tmp_path / "v1", [group_of(CASE)])
