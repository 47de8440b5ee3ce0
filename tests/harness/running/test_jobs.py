import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.contract import LanguageModelConfig, tap_names
from grok_conformance.harness.formats.files import FileError, read_json
from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.running.jobs import link_job, read_job, write_job
from tests.harness import tiny_job
from tests.harness.tiny_job import CONFIG, FIRST, LAST, MIDDLE, PRESET, call, case, preloaded


def test_a_job_read_back_is_the_job_written(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path)
    assert read_job(tmp_path) == job
    assert (job.suite, job.preset, job.fprop_dtype) == ("1.0.0", "tiny", "bfloat16")
    assert [row.id for row in job.cases] == [FIRST, MIDDLE, LAST]


def test_a_job_holds_the_configuration_in_the_dtype_of_its_cases_and_the_weights(tmp_path: Path) -> None:
    write_job(tmp_path, "1.0.0", PRESET, [replace(case("tiny/a", call("prefill", [1])), fprop_dtype="float32")])
    config = LanguageModelConfig.from_json(read_json(tmp_path / "config.json"))
    assert config == replace(CONFIG, fprop_dtype="float32")
    weights = open_tensors(tmp_path / "weights.safetensors")
    assert np.array_equal(weights["language_model/rms_norm/scale"], np.ones(6))


def test_a_case_has_its_tokens_lengths_and_preloaded_cache_as_inputs(tmp_path: Path) -> None:
    asked = preloaded("tiny/decode/a", call("extend", [4, 5]), call("decode", [6]))
    (row,) = write_job(tmp_path, "1.0.0", PRESET, [asked]).cases
    inputs = open_tensors(tmp_path / row.inputs)
    assert row.preload
    assert row.calls == ("extend", "decode")
    for index, made in enumerate(asked.calls):
        assert np.array_equal(inputs[tap_key(index, "tokens")], made.tokens)
        assert np.array_equal(inputs[tap_key(index, "lengths")], made.lengths)
    assert asked.preload is not None
    for name in ("keys", "values", "steps"):
        assert np.array_equal(inputs[f"preload/{name}"], getattr(asked.preload, name))
    assert len(inputs) == 7


def test_a_job_wants_every_tap_of_the_configuration_unless_told_which(tmp_path: Path) -> None:
    asked = [case("tiny/a", call("prefill", [1]))]
    (row,) = write_job(tmp_path / "all", "1.0.0", PRESET, asked).cases
    assert row.taps == tap_names(CONFIG)
    assert (row.untapped, row.reruns) == (("logits",), ("again", "untapped", "parallel", "later"))
    (row,) = write_job(tmp_path / "some", "1.0.0", PRESET, asked, ("*.router.*",)).cases
    assert row.taps == ("layers.00.router.logits", "layers.00.router.probabilities")
    assert (row.untapped, row.reruns) == ((), ("again", "parallel", "later"))


def test_a_case_is_run_again_in_every_way_that_its_calls_allow_or_only_as_asked(tmp_path: Path) -> None:
    asked = [case("tiny/a", call("prefill", [1])), case("tiny/b", call("prefill", [1]), call("decode", [2]))]
    job = write_job(tmp_path / "all", "1.0.0", PRESET, asked, ("logits",))
    assert [row.reruns for row in job.cases] == [
        ("again", "untapped", "parallel", "later"),
        ("again", "untapped", "silent", "parallel", "later"),
    ]
    job = write_job(tmp_path / "some", "1.0.0", PRESET, asked, ("logits",), ("silent",))
    assert [(row.untapped, row.reruns) for row in job.cases] == [((), ()), ((), ("silent",))]


def test_cases_whose_ids_differ_only_in_punctuation_have_folders_of_their_own(tmp_path: Path) -> None:
    cases = [case(f"tiny/a{mark}b", call("prefill", [1])) for mark in "/.:-"]
    folders = {row.folder for row in write_job(tmp_path, "1.0.0", PRESET, cases).cases}
    assert len(folders) == 4
    assert read_job(tmp_path)


def test_cases_of_another_preset_or_of_two_dtypes_make_no_job(tmp_path: Path) -> None:
    one = case("tiny/a", call("prefill", [1]))
    for cases in ([], [replace(one, preset="other")], [one, replace(one, id="tiny/b", fprop_dtype="float32")]):
        with pytest.raises(ValueError, match="one preset, one dtype"):
            write_job(tmp_path, "1.0.0", PRESET, cases)
    assert not list(tmp_path.iterdir())


def test_a_linked_job_holds_fewer_cases_and_the_same_files(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    link_job(tmp_path / "job", replace(job, cases=job.cases[1:]), tmp_path / "rest")
    rest = read_job(tmp_path / "rest")
    assert rest.cases == job.cases[1:]
    for name in ("config.json", "weights.safetensors", rest.cases[0].inputs):
        assert (tmp_path / "rest" / name).read_bytes() == (tmp_path / "job" / name).read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("format", 2, r"format 2 is not 1: write the job again"),
        ("cases", [], "no cases, or one given twice"),
        ("cases", None, "no job description"),
        ("preset", 3, "a name is not a string"),
        ("fprop_dtype", "float8", "fprop_dtype float8"),
    ],
)
def test_a_malformed_job_is_refused_by_name(tmp_path: Path, key: str, value: Any, complaint: str) -> None:
    tiny_job.write_three_cases(tmp_path)
    change_job(tmp_path, {key: value})
    with pytest.raises(FileError, match=complaint) as raised:
        read_job(tmp_path)
    assert str(raised.value).startswith(str(tmp_path / "job.json"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("folder", "../outside"),
        ("folder", "/outside"),
        ("folder", ".."),
        ("inputs", "../outside"),
        ("calls", [{"kind": "train"}]),
        ("calls", [[]]),
        ("preload", "yes"),
        ("taps", [3]),
        ("id", FIRST),
        ("surprise", 1),
    ],
)
def test_a_malformed_case_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    job = tiny_job.write_three_cases(tmp_path)
    rows = read_json(tmp_path / "job.json")["cases"]
    change_job(tmp_path, {"cases": [rows[0], {**rows[1], key: value}, rows[2]]})
    with pytest.raises(FileError, match=re.escape(f"{tmp_path / 'job.json'}: no job description")):
        read_job(tmp_path)
    change_job(tmp_path, {"cases": rows})
    assert read_job(tmp_path) == job


@pytest.mark.parametrize("folder", ["../outside", "/outside", "..", "", "a/b"])
def test_a_case_cannot_point_out_of_the_folders(tmp_path: Path, folder: str) -> None:
    tiny_job.write_three_cases(tmp_path)
    rows = read_json(tmp_path / "job.json")["cases"]
    change_job(tmp_path, {"cases": [{**rows[0], "folder": folder, "inputs": f"inputs/{folder}.safetensors"}]})
    with pytest.raises(FileError, match="not the name of a folder"):
        read_job(tmp_path)


def test_an_absent_job_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"job\.json: cannot be read: No such file"):
        read_job(tmp_path)


def change_job(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "job.json"
    path.write_text(json.dumps({**read_json(path), **changes}))
