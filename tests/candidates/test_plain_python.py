"""The program of Python's standard library alone answers the logits of every prompt without a pad inside."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.formats.files import read_json, write_json
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.groups import read_groups
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.answers import make_folders, read_answer
from grok_conformance.harness.running.jobs import write_job
from tests.candidates.programs import judge

PROGRAM = GOLDEN_DIR.parent / "candidates" / "plain_python" / "logits.py"


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> CandidateVerdict:
    return judge(PROGRAM, tmp_path_factory.mktemp("run"), "*.float32")


def has_pad_inside(case: Case) -> bool:
    return any(
        (row[:length] == 0).any() for call in case.calls for row, length in zip(call.tokens, call.lengths, strict=True)
    )


def test_the_logits_pass_in_float32_wherever_no_pad_stands_inside_a_prompt(verdict: CandidateVerdict) -> None:
    cases = [case for group in read_groups(open_golden(GOLDEN_DIR / "v1"), "*.float32") for case in group.cases]
    expected = {case.id: "unsupported" if has_pad_inside(case) else "pass" for case in cases}
    assert {case.case: case.status for case in verdict.cases} == expected
    assert set(expected.values()) == {"pass", "unsupported"}
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


def test_a_newer_format_is_refused_and_keys_added_to_this_one_are_ignored(tmp_path: Path) -> None:
    job_dir, out_dir = tmp_path / "job", tmp_path / "out"
    golden = open_golden(GOLDEN_DIR / "v1")
    (group,) = read_groups(golden, "long/*.float32")
    job = write_job(job_dir, golden.manifest.suite, group.preset, group.cases)
    description = read_json(job_dir / "job.json")
    make_folders(out_dir, job)

    def run() -> tuple[int, str]:
        command = [sys.executable, str(PROGRAM), str(job_dir), str(out_dir)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
        return ended.returncode, ended.stderr

    write_json(job_dir / "job.json", {**description, "format": 2})
    assert run() == (1, "unsupported: job format 2; it reads 1\n")
    cases = [{**row, "priority": 3} for row in description["cases"]]
    write_json(job_dir / "job.json", {**description, "deadline": None, "cases": cases})
    assert run() == (0, "")
    assert read_answer(out_dir, job)[group.cases[0].id].status == "answered"
