from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from grok_conformance.harness.formats.tensors import write_tensors
from grok_conformance.harness.golden.reading import FixtureError
from grok_conformance.harness.judging.groups import read_groups
from grok_conformance.harness.judging.selection import asked_groups
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import read_job
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.asking import answer_folders, groups_for
from grok_conformance.harness.sessions.run import (
    giving_way,
    job_names,
    judge_folder,
    run_candidates,
    write_jobs,
)
from tests.harness.honest_port import golden, group_of, honest_taps

PREFILL, DECODE = "unequal/prefill/padded_batch.bfloat16", "unequal/decode/unequal_lengths.bfloat16"


STRESS = "stress/prefill/saturated_cap.float32"


def test_a_job_is_written_per_group_and_every_case_is_run_with_its_logits_alone_too(tmp_path: Path) -> None:
    groups = read_groups(golden(), "*e*/*")
    paths = write_jobs(groups, "1.0.0", tmp_path)
    jobs = [read_job(path) for path in paths]
    assert [(job.preset, job.fprop_dtype) for job in jobs] == [(g.preset.name, g.fprop_dtype) for g in groups]
    assert [[case.id for case in job.cases] for job in jobs] == [[case.id for case in g.cases] for g in groups]
    assert {case.untapped for job in jobs for case in job.cases} == {("logits",)}


def test_jobs_of_one_model_with_several_weights_have_names_of_their_own() -> None:
    (group,) = read_groups(golden(), STRESS)
    names = ["stress.float32", "stress.float32.reweighted", "stress.float32.reweighted.2"]
    assert job_names([group] * 3) == names


def test_a_candidate_that_compiles_is_asked_one_sweep_of_those_that_others_are() -> None:
    groups = asked_groups(golden(), "*", seed=3)
    eager, compiling = (groups_for(find_candidate(name), groups) for name in ("numpy_float64", "reference"))
    names, kept = ([group.preset.name for group in asked] for asked in (groups, compiling))
    assert [group.preset.name for group in eager] == names
    assert [name for name in kept if not name.startswith("sweep_")] == [n for n in names if not n.startswith("sweep_")]
    assert len([name for name in kept if name.startswith("sweep_")]) == 1


def test_each_candidate_gives_way_to_those_before_it_as_far_as_it_can() -> None:
    given = [giving_way(Limits(silent_seconds=7), place) for place in range(4)]
    assert [(limits.silent_seconds, limits.niceness) for limits in given] == [(7, 0), (7, 10), (7, 19), (7, 19)]


def test_candidates_that_are_asked_different_shares_have_jobs_of_their_own(tmp_path: Path) -> None:
    groups = [replace(group, by_turns=True) for group in asked_groups(golden(), "sweep_long/*.float32", seed=3)]
    candidate = find_candidate("numpy_float64")
    candidates = [candidate, replace(candidate, name="compiling", compiles=True)]
    whole, share = run_candidates(candidates, groups, "1.0.0", tmp_path / "run", Limits())
    assert len(whole.verdict.cases) == len(groups[0].cases) > len(share.verdict.cases)
    assert all(case.status == "pass" for each in (whole, share) for case in each.verdict.cases)


SPOILER = """
import sys
from pathlib import Path
from grok_conformance.harness.contract import CandidateInfo

INFO = CandidateInfo(name="spoiler", version="1", taps=("logits",))
JOBS = [Path(path) for path in sys.argv[2::2]]

def load(config, weights):
    for job in JOBS:
        for path in job.rglob("*.*"):
            path.write_bytes(b"{")
    raise RuntimeError("spoilt")
"""


def test_a_candidate_that_spoils_its_jobs_errs_and_spoils_no_other_candidate(tmp_path: Path) -> None:
    (tmp_path / "spoiler.py").write_text(SPOILER)
    candidates = [find_candidate(name) for name in (str(tmp_path / "spoiler.py"), "numpy_float64")]
    groups = read_groups(golden(), "float_weights/*")
    assert len(groups) == 2
    spoiler, honest = (each.verdict for each in run_candidates(candidates, groups, "1.0.0", tmp_path / "run", Limits()))
    assert {case.status for case in spoiler.cases} == {"error"}
    assert {case.status for case in honest.cases} == {"pass"}


def write_answers(folder: Path, case_ids_answered: tuple[str, ...], job_dir: Path) -> None:
    """Write what a program leaves that answers some cases of a job."""
    folder.mkdir()
    (folder / "info.json").write_text(json.dumps({"name": "elsewhere", "version": "7", "taps": ["*"]}))
    for case in read_job(job_dir).cases:
        if case.id in case_ids_answered:
            (folder / case.folder).mkdir()
            write_tensors(folder / case.folder / "taps.safetensors", honest_taps(case.id, 41))
            (folder / case.folder / "result.json").write_text('{"status": "answered"}')


def write_prefill_and_decode(folder: Path, suite: str) -> Path:
    (job_dir,) = write_jobs([group_of(PREFILL, DECODE)], suite, folder)
    return job_dir


def test_a_folder_written_elsewhere_is_judged_in_full(tmp_path: Path) -> None:
    job_dir = write_prefill_and_decode(tmp_path / "jobs", golden().manifest.suite)
    write_answers(tmp_path / "out", (PREFILL, DECODE), job_dir)
    found = judge_folder(golden(), job_dir, tmp_path / "out")
    assert (found.name, found.version, found.level, found.status) == ("elsewhere", "7", "caches", "pass")
    assert {case.case for case in found.cases} == {PREFILL, DECODE}
    assert all(row.status == "pass" for row in found.operations)


def test_a_case_of_the_folder_without_an_answer_is_missing(tmp_path: Path) -> None:
    job_dir = write_prefill_and_decode(tmp_path / "jobs", golden().manifest.suite)
    write_answers(tmp_path / "out", (PREFILL,), job_dir)
    found = judge_folder(golden(), job_dir, tmp_path / "out")
    assert {case.case: case.status for case in found.cases} == {PREFILL: "pass", DECODE: "missing"}
    assert found.status == "missing"


def test_folders_of_several_jobs_are_judged_as_one_run(tmp_path: Path) -> None:
    jobs = write_jobs([group_of(PREFILL), group_of(STRESS)], golden().manifest.suite, tmp_path / "jobs")
    (tmp_path / "answers").mkdir()
    for job, case_id in zip(jobs, (PREFILL, STRESS), strict=True):
        write_answers(tmp_path / "answers" / job.name, (case_id,), job)
    found = judge_folder(golden(), tmp_path / "jobs", tmp_path / "answers")
    assert {case.case: case.status for case in found.cases} == {PREFILL: "pass", STRESS: "pass"}
    shutil.rmtree(tmp_path / "answers" / jobs[1].name)
    found = judge_folder(golden(), tmp_path / "jobs", tmp_path / "answers")
    assert {case.case: case.status for case in found.cases} == {PREFILL: "pass", STRESS: "missing"}


def test_a_job_of_another_suite_is_refused(tmp_path: Path) -> None:
    job_dir = write_prefill_and_decode(tmp_path / "jobs", "0.9.0")
    with pytest.raises(FixtureError, match=r"made from suite 0\.9\.0"):
        judge_folder(golden(), job_dir, tmp_path)


def test_a_job_with_a_case_that_the_golden_set_does_not_hold_is_refused(tmp_path: Path) -> None:
    job_dir = write_prefill_and_decode(tmp_path / "jobs", golden().manifest.suite)
    text = (job_dir / "job.json").read_text()
    (job_dir / "job.json").write_text(text.replace("padded_batch.bfloat16", "another_batch.bfloat16"))
    with pytest.raises(FixtureError, match="names cases that"):
        judge_folder(golden(), job_dir, tmp_path)


HEAD = """#!{python} -IS
import os, shutil, sys, time
from pathlib import Path

out_dir = Path(sys.argv[2])
"""

HOSTILE = {
    "parent_is_a_link": "shutil.rmtree(out_dir.parent)\nos.symlink('{outside}', out_dir.parent)",
    "parent_is_a_file": "shutil.rmtree(out_dir.parent)\nout_dir.parent.write_text('')",
    "all_answers_removed": "shutil.rmtree(out_dir.parent)",
    "nested": "os.chdir(sys.argv[1])\nfor _ in range(1200):\n    os.mkdir('inside')\n    os.chdir('inside')",
    "jobs_barred": "Path(sys.argv[1]).chmod(0)",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_program_errs_alone_and_harms_nothing_outside(what: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    program = tmp_path / "hostile"
    program.write_text((HEAD + HOSTILE[what]).format(python=sys.executable, outside=outside))
    program.chmod(0o700)
    candidates = [find_candidate(name) for name in (str(program), "numpy_float64")]
    groups = read_groups(golden(), "float_weights/*")
    found = list(run_candidates(candidates, groups, "1.0.0", tmp_path / "run", Limits(silent_seconds=60)))
    hostile, honest = (each.verdict for each in found)
    assert {case.status for case in hostile.cases} <= {"error", "missing"}
    assert {case.status for case in honest.cases} == {"pass"}
    assert honest.judging_seconds > 0
    assert list(outside.iterdir()) == []


def test_a_program_that_cannot_be_started_errs_alone(tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_bytes(b"\x7fELF no program")
    program.chmod(0o700)
    (found,) = run_candidates(
        [find_candidate(str(program))], read_groups(golden(), "float_weights/*"), "1.0.0", tmp_path / "run", Limits()
    )
    assert {case.status for case in found.verdict.cases} == {"error"}
    assert "cannot be started" in found.verdict.cases[0].reason


def test_two_candidates_never_share_a_folder_of_answers(tmp_path: Path) -> None:
    folders = answer_folders(tmp_path, ["a/b", "a_b", "c", "a_b.2"])
    assert folders["a/b"] == tmp_path / "a_b"
    assert len(set(folders.values())) == 4


ANSWERS_ONE = """
import json
case = json.loads((Path(sys.argv[1]) / "job.json").read_text())["cases"][0]
(out_dir / case["folder"] / "result.json").write_text('{{"status": "error"}}')
time.sleep(600)
"""


def test_an_interrupted_run_ends_its_programs_at_once(tmp_path: Path) -> None:
    program = tmp_path / "sleeper"
    program.write_text((HEAD + ANSWERS_ONE).format(python=sys.executable))
    program.chmod(0o700)
    (tmp_path / "second").write_text((HEAD + "time.sleep(600)").format(python=sys.executable))
    (tmp_path / "second").chmod(0o700)
    candidates = [find_candidate(str(tmp_path / name)) for name in ("sleeper", "second")]

    def interrupt(_name: str, _case: str) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(run_candidates(candidates, [group_of(PREFILL)], "1.0.0", tmp_path / "run", Limits(), interrupt))
    assert time.monotonic() - began < 30
