"""The program of Python's standard library alone answers the logits of every prompt without a pad inside."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.contract import GOLDEN_DIR
from harness.verdict import CandidateVerdict
from tests.candidates.programs import judge

PROGRAM = GOLDEN_DIR.parent / "candidates" / "plain_python" / "logits.py"
PADS_INSIDE = {"unequal/decode/pad_token", "unequal/decode/pads_in_cache", "unequal/prefill/leading_pads"}


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> CandidateVerdict:
    return judge(PROGRAM, tmp_path_factory.mktemp("run"), "*.float32")


def test_the_logits_pass_in_float32_wherever_no_pad_stands_inside_a_prompt(verdict: CandidateVerdict) -> None:
    passed = {case.case.removesuffix(".float32") for case in verdict.cases if case.status == "pass"}
    others = {case.case.removesuffix(".float32") for case in verdict.cases if case.status != "pass"}
    assert len(passed) == 11
    assert others == PADS_INSIDE
    assert verdict.level == "logits"


def test_what_the_program_does_not_do_is_unsupported_with_its_reason(verdict: CandidateVerdict) -> None:
    reasons = {(case.status, case.reason) for case in verdict.cases if case.status != "pass"}
    assert reasons == {("unsupported", "a pad inside the prompt")}


def test_another_compute_dtype_is_refused(tmp_path: Path) -> None:
    (case,) = judge(PROGRAM, tmp_path, "long/*.bfloat16").cases
    assert (case.status, case.reason) == ("unsupported", "fprop_dtype bfloat16; it runs float32")


def test_a_wrong_rotary_base_shows_in_the_logits_of_the_smallest_preset(tmp_path: Path) -> None:
    program = tmp_path / "wrong.py"
    shutil.copy(PROGRAM, program)
    program.write_text(program.read_text().replace("10000 **", "1000 **"))
    verdict = judge(program, tmp_path / "run", "long/*.float32")
    assert [(row.operation, row.status) for row in verdict.operations] == [("logits", "fail")]
