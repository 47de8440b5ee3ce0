import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.contract import Array, LogitForm
from grok_conformance.harness.formats.tensors import TensorFile, digest, write_tensors
from grok_conformance.harness.running.answers import Answer, read_answer, unrepeated
from grok_conformance.harness.running.jobs import Job
from tests.harness import tiny_job
from tests.harness.tiny_job import FIRST, LAST, MIDDLE

INFO = {"name": "fake", "version": "1.0", "taps": ["logits"], "dtypes": {"logits": "fprop"}}
TAPS: dict[str, Array] = {"call0/logits": np.array([[[1.5, np.nan]]], np.float32)}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return tiny_job.write_three_cases(tmp_path / "job")


@pytest.fixture
def out(tmp_path: Path, job: Job) -> Path:
    """Return the folder of an answer to the first of the three cases."""
    folder = tmp_path / "out" / job.cases[0].folder
    folder.mkdir(parents=True)
    write_json_text(tmp_path / "out" / "info.json", INFO)
    write_tensors(folder / "taps.safetensors", TAPS)
    write_json_text(folder / "result.json", {"status": "answered"})
    return tmp_path / "out"


def write_json_text(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def first_answer(out: Path, job: Job) -> Answer:
    return read_answer(out, job)[FIRST]


def test_an_answered_case_gives_its_taps_unchanged_and_who_answered(out: Path, job: Job) -> None:
    answer = first_answer(out, job)
    assert answer.status == "answered"
    assert answer.taps["call0/logits"].tobytes() == TAPS["call0/logits"].tobytes()
    assert answer.info is not None
    assert (answer.info.name, answer.info.taps, answer.info.dtypes) == ("fake", ("logits",), {"logits": "fprop"})
    assert (answer.reruns, answer.extra, answer.seconds) == ({}, (), None)


def test_a_case_without_a_result_is_missing(out: Path, job: Job) -> None:
    answers = read_answer(out, job)
    assert answers[MIDDLE].status == answers[LAST].status == "missing"
    assert answers[LAST].reason == f"{job.cases[2].folder}/result.json was not written"


def test_a_folder_that_is_not_there_leaves_every_case_missing(tmp_path: Path, job: Job) -> None:
    assert {answer.status for answer in read_answer(tmp_path / "nowhere", job).values()} == {"missing"}


def test_taps_without_a_result_are_no_answer(out: Path, job: Job) -> None:
    (out / job.cases[0].folder / "result.json").unlink()
    assert first_answer(out, job).status == "missing"


def test_an_answer_without_its_taps_file_is_an_error(out: Path, job: Job) -> None:
    (out / job.cases[0].folder / "taps.safetensors").unlink()
    answer = first_answer(out, job)
    assert answer.status == "error"
    assert "taps.safetensors was not written although the status is answered" in answer.reason


@pytest.mark.parametrize("name", ["taps.safetensors", "untapped.safetensors"])
def test_a_truncated_tensor_file_is_an_error_that_names_it(out: Path, job: Job, name: str) -> None:
    path = out / job.cases[0].folder / name
    path.write_bytes((out / job.cases[0].folder / "taps.safetensors").read_bytes()[:-1])
    answer = first_answer(out, job)
    assert answer.status == "error"
    assert answer.reason.startswith(f"{path}: truncated")


@pytest.mark.parametrize("status", ["unsupported", "error"])
def test_a_candidate_may_say_that_a_case_is_unsupported_or_failed(out: Path, job: Job, status: str) -> None:
    write_json_text(out / job.cases[0].folder / "result.json", {"status": status, "reason": "no\nreason \x1b[2J"})
    answer = first_answer(out, job)
    assert (answer.status, answer.reason) == (status, "no reason ?[2J")
    assert not answer.taps


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ({}, "status must be answered, unsupported or error"),
        ({"status": "pass"}, "status must be answered, unsupported or error"),
        ({"status": "missing"}, "status must be answered, unsupported or error"),
        ([], "status must be answered, unsupported or error"),
        ({"status": "answered", "seconds": -1}, "seconds must be a number from 0 to 1e+09"),
        ({"status": "answered", "seconds": True}, "seconds must be a number from 0 to 1e+09"),
        ({"status": "answered", "reason": 3}, "reason must be a string"),
        (
            {"status": "answered", "repeat": {"call0/logits": 3}},
            "repeat, and what reruns holds, must be objects of strings",
        ),
        ({"status": "answered", "repeat": []}, "repeat, and what reruns holds, must be objects of strings"),
    ],
)
def test_a_malformed_result_is_an_error(out: Path, job: Job, result: Any, complaint: str) -> None:
    write_json_text(out / job.cases[0].folder / "result.json", result)
    answer = first_answer(out, job)
    assert answer.status == "error"
    assert complaint in answer.reason


@pytest.mark.parametrize("text", ["1e999", "1" + "0" * 400, "NaN"])
def test_seconds_that_are_no_finite_time_are_an_error(out: Path, job: Job, text: str) -> None:
    (out / job.cases[0].folder / "result.json").write_text(f'{{"status": "answered", "seconds": {text}}}')
    assert first_answer(out, job).status == "error"


@pytest.mark.parametrize(
    "info",
    [
        [],
        {**INFO, "name": 1},
        {**INFO, "taps": "logits"},
        {**INFO, "taps": [1]},
        {**INFO, "dtypes": {"logits": "float8"}},
        {**INFO, "dtypes": ["float32"]},
        {"name": "fake"},
        {**INFO, "logits": "last"},
        {**INFO, "logits": {"kind": "probabilities"}},
        {**INFO, "logits": {"positions": []}},
        {**INFO, "logits": {"top": 5}},
        {**INFO, "logits": {"kind": "log_probabilities", "top": True}},
        {**INFO, "logits": {"most": 5}},
    ],
)
def test_an_answer_whose_info_is_malformed_is_an_error(out: Path, job: Job, info: Any) -> None:
    write_json_text(out / "info.json", info)
    answer = first_answer(out, job)
    assert answer.status == "error"
    assert "info.json" in answer.reason


@pytest.mark.parametrize(
    "info",
    [
        {**INFO, "taps": ["logits", "layers.*.router.logit"]},
        {**INFO, "dtypes": {"layers.*.router.logit": "float32"}},
    ],
)
def test_a_tap_that_does_not_exist_is_an_error_with_the_name_that_was_meant(out: Path, job: Job, info: Any) -> None:
    write_json_text(out / "info.json", info)
    answer = first_answer(out, job)
    assert answer.status == "error"
    assert "no tap 'layers.*.router.logit'; did you mean layers.*.router.logits" in answer.reason


def test_the_form_of_the_logits_is_read(out: Path, job: Job) -> None:
    form = LogitForm(kind="log_probabilities", positions="last", top=20)
    write_json_text(out / "info.json", {**INFO, "logits": asdict(form)})
    info = first_answer(out, job).info
    assert info is not None
    assert info.logits == form
    assert str(info.logits) == "top 20 log probabilities, last position"


def test_an_answer_that_does_not_say_who_answers_is_an_error(out: Path, job: Job) -> None:
    (out / "info.json").unlink()
    assert first_answer(out, job).reason.startswith("info.json was not written")


def test_only_what_was_wanted_is_kept_and_the_rest_is_named(out: Path, job: Job) -> None:
    folder = out / job.cases[0].folder
    extra = np.zeros(1, np.float32)
    write_tensors(folder / "taps.safetensors", {**TAPS, "call1/logits": extra, "call0/typo": extra})
    write_tensors(folder / "untapped.safetensors", {"call0/embedding": extra})
    answer = first_answer(out, job)
    assert set(answer.taps) == {"call0/logits"}
    assert set(answer.reruns["untapped"].taps) == set()
    assert set(answer.extra) == {
        "taps.safetensors: call1/logits",
        "taps.safetensors: call0/typo",
        "untapped.safetensors: call0/embedding",
    }


def test_dtype_and_shape_of_a_tap_are_known_without_reading_it(out: Path, job: Job) -> None:
    taps = first_answer(out, job).taps
    assert isinstance(taps, TensorFile)
    header = taps.headers["call0/logits"]
    assert (header.dtype, header.shape) == (np.dtype(np.float32), (1, 1, 2))


@pytest.mark.parametrize("name", ["result.json", "taps.safetensors", "untapped.safetensors"])
def test_a_file_of_an_answer_that_is_a_link_is_not_followed(out: Path, job: Job, tmp_path: Path, name: str) -> None:
    folder = out / job.cases[0].folder
    outside = tmp_path / "outside"
    source = "result.json" if name == "result.json" else "taps.safetensors"
    outside.write_bytes((folder / source).read_bytes())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    answer = first_answer(out, job)
    assert answer.status == "error"
    assert answer.reason == f"{folder / name}: a link; answers must be plain files"


def test_a_case_folder_that_is_a_link_is_not_followed(out: Path, job: Job, tmp_path: Path) -> None:
    folder = out / job.cases[0].folder
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    assert first_answer(out, job).reason == f"{folder}: a link; answers must be plain files"


def test_a_pipe_in_the_place_of_a_result_is_an_error_and_not_waited_for(out: Path, job: Job) -> None:
    path = out / job.cases[0].folder / "result.json"
    path.unlink()
    os.mkfifo(path)
    assert first_answer(out, job).reason == f"{path}: not a regular file; answers must be plain files"


def test_a_result_too_large_to_read_is_an_error(out: Path, job: Job) -> None:
    write_json_text(out / job.cases[0].folder / "result.json", {"status": "answered", "note": "x" * 5_000_000})
    assert "larger than" in first_answer(out, job).reason


def test_a_case_left_without_a_result_has_what_the_runner_recorded_of_it(out: Path, job: Job) -> None:
    rows = {MIDDLE: {"status": "error", "reason": "ended by signal 11"}, FIRST: {"status": "error", "reason": "no"}}
    write_json_text(out / "run.json", {"unanswered": rows})
    answers = read_answer(out, job)
    assert answers[MIDDLE] == Answer(status="error", reason="ended by signal 11")
    assert answers[FIRST].status == "answered"
    assert answers[LAST].status == "missing"


@pytest.mark.parametrize("record", [[], {}, {"unanswered": {MIDDLE: {"status": "answered", "reason": ""}}}])
def test_a_malformed_record_of_the_run_is_an_error_of_every_case(out: Path, job: Job, record: Any) -> None:
    write_json_text(out / "run.json", record)
    answers = read_answer(out, job).values()
    assert {answer.status for answer in answers} == {"error"}
    assert all("no record of a run" in answer.reason for answer in answers)


def test_unrepeated_names_the_taps_whose_second_run_differs_or_is_absent(out: Path, job: Job) -> None:
    path = out / job.cases[0].folder / "result.json"
    write_json_text(path, {"status": "answered", "repeat": {"call0/logits": digest(TAPS["call0/logits"])}})
    assert unrepeated(first_answer(out, job), "again", ["call0/logits"]) == ()
    write_json_text(path, {"status": "answered", "repeat": {"call0/logits": digest(-TAPS["call0/logits"])}})
    assert unrepeated(first_answer(out, job), "again", ["call0/logits"]) == ("call0/logits",)
    write_json_text(path, {"status": "answered", "repeat": {}})
    assert unrepeated(first_answer(out, job), "again", ["call0/logits"]) == ("call0/logits",)


def test_a_further_run_is_read_from_its_digests_its_values_or_both(out: Path, job: Job) -> None:
    folder, key = out / job.cases[0].folder, "call0/logits"
    write_json_text(folder / "result.json", {"status": "answered", "reruns": {"again": {key: "f" * 64}}})
    write_tensors(folder / "again.safetensors", {key: -TAPS[key]})
    write_tensors(folder / "untapped.safetensors", TAPS)
    reruns = first_answer(out, job).reruns
    assert set(reruns) == {"again", "untapped"}
    assert reruns["again"].digest_of(key) == "f" * 64
    assert reruns["again"].taps[key].tobytes() == (-TAPS[key]).tobytes()
    assert unrepeated(first_answer(out, job), "untapped", [key]) == ()


@pytest.mark.parametrize(
    ("told", "status", "reason"),
    [
        ({"status": "begun"}, "error", "the candidate crashed or hung"),
        ({"status": "error", "reason": "KeyError"}, "error", "KeyError"),
        ({"status": "answered", "digests": {}}, "answered", ""),
    ],
)
def test_a_run_after_all_others_has_a_file_of_its_own(
    out: Path, job: Job, told: dict[str, Any], status: str, reason: str
) -> None:
    write_json_text(out / job.cases[0].folder / "later.json", told)
    later = first_answer(out, job).reruns["later"]
    assert (later.status, later.reason) == (status, reason)


def test_a_run_after_all_others_that_says_nothing_is_an_error_of_its_case(out: Path, job: Job) -> None:
    write_json_text(out / job.cases[0].folder / "later.json", {"status": "answered"})
    answer = first_answer(out, job)
    assert answer.status == "error"
    assert "status must be begun, answered, unsupported or error" in answer.reason


@pytest.mark.parametrize("taps", [["*"] * 401, ["*" * 101]])
def test_more_globs_than_anyone_needs_are_refused_before_they_are_tried(out: Path, job: Job, taps: list[str]) -> None:
    write_json_text(out / "info.json", {**INFO, "taps": taps})
    assert "at most 400 globs of taps, of at most 100 characters each" in first_answer(out, job).reason
