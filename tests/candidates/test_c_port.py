"""The port in C is built with the system's compiler and judged over the golden cases."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.formats.files import read_json, write_json
from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.verdict import CandidateVerdict
from tests.candidates.programs import judge
from tests.harness import tiny_job

SOURCES = GOLDEN_DIR.parent / "candidates" / "c_port"


def build(sources: Path, folder: Path) -> Path:
    if missing := [tool for tool in ("make", "cc") if shutil.which(tool) is None]:
        pytest.fail(f"no {missing[0]} here: install make and a C compiler (Debian: apt-get install build-essential)")
    command = ["make", "--silent", "-C", str(sources), f"BUILD={folder}"]
    made = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own Makefile
    assert made.returncode == 0, made.stderr
    assert not made.stderr
    return folder / "c_port"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SOURCES, tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def verdict(program: Path, answers: Path) -> CandidateVerdict:
    return judge(program, answers, "*")


def test_the_c_port_passes_every_tap_of_every_golden_case(verdict: CandidateVerdict) -> None:
    assert [(case.case, case.reason) for case in verdict.cases if case.status != "pass"] == []
    assert len(verdict.cases) == len(open_golden(GOLDEN_DIR / "v1").manifest.cases)
    assert verdict.level == "caches"


def test_the_c_port_shows_every_parameter_as_it_is_stored(verdict: CandidateVerdict, answers: Path) -> None:
    assert verdict.weights == ()
    for preset in (GOLDEN_DIR / "v1" / "presets").iterdir():
        stored = {name.removesuffix(".weight") for name in open_tensors(preset / "weights.safetensors")}
        for path in answers.rglob(f"{preset.name}.*/weights.safetensors"):
            shown = {name.removeprefix("loaded/") for name in open_tensors(path)}
            if "jobs" not in path.parts:
                assert shown == {name for name in stored if not name.endswith(".scales")}


def test_scales_in_the_wrong_order_are_named_before_any_operation(tmp_path: Path) -> None:
    sources = shutil.copytree(SOURCES, tmp_path / "sources")
    path = sources / "parameters.c"
    path.write_text(path.read_text().replace("row / (k / num_groups)", "row % num_groups"))
    verdict = judge(build(sources, tmp_path / "build"), tmp_path / "run", "stress/*.float32")
    assert {problem.tensor.rpartition("_0/")[2] for problem in verdict.weights} == {
        "multi_head_attention/linear/w",
        "moe/linear_1/w",
    }
    assert all(problem.likely.startswith("scales interleaved: row k has those") for problem in verdict.weights)


def test_two_runs_of_the_c_port_are_bit_for_bit_equal(verdict: CandidateVerdict) -> None:
    assert {case.repeatable for case in verdict.cases} == {True}


def test_the_digests_of_the_c_port_are_right_whatever_the_padding(verdict: CandidateVerdict, answers: Path) -> None:
    assert verdict.passed
    rests = {array.nbytes % 64 for path in answers.rglob("taps.safetensors") for array in open_tensors(path).values()}
    assert {rest < 56 for rest in rests} == {True, False}  # the message's length fits the last block, or takes one more


def test_a_wrong_constant_in_the_c_port_is_found_where_it_is(tmp_path: Path) -> None:
    sources = shutil.copytree(SOURCES, tmp_path / "sources")
    path = sources / "operations.c"
    path.write_text(path.read_text().replace("GELU_CUBIC = 0.044715f", "GELU_CUBIC = 0.0447f"))
    verdict = judge(build(sources, tmp_path / "build"), tmp_path / "run", "stress/prefill/saturated_cap.float32")
    assert [row.operation for row in verdict.operations if row.status != "pass"] == ["moe.expert_hidden"]


def run(program: Path, *arguments: Path) -> tuple[int, str]:
    ended = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=60)  # noqa: S603
    return ended.returncode, ended.stderr


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    tiny_job.write_three_cases(tmp_path / "job")
    (tmp_path / "out").mkdir()
    return tmp_path / "job"


def test_the_c_port_refuses_a_job_of_a_newer_format(program: Path, job_dir: Path, tmp_path: Path) -> None:
    job = read_json(job_dir / "job.json")
    write_json(job_dir / "job.json", {**job, "format": 2})
    assert run(program, job_dir, tmp_path / "out") == (1, "unsupported: job format 2; it reads 1\n")


def test_the_c_port_ignores_keys_that_it_does_not_know(program: Path, job_dir: Path, tmp_path: Path) -> None:
    job = read_json(job_dir / "job.json")
    cases = [{**row, "priority": {"high": [True, None, -1.5e3]}} for row in job["cases"]]
    write_json(job_dir / "job.json", {**job, "deadline": None, "cases": cases})
    status, words = run(program, job_dir, tmp_path / "out")
    assert status == 2
    assert words.endswith("embeddings is missing\n")  # it got past the job


def test_the_c_port_names_a_weight_that_is_missing(program: Path, job_dir: Path, tmp_path: Path) -> None:
    status, words = run(program, job_dir, tmp_path / "out")
    assert status == 2
    assert words.endswith("weights.safetensors: tensor language_model/in_out_embed/embeddings is missing\n")


@pytest.mark.parametrize("size", [0, 4, 100])
def test_the_c_port_names_a_file_that_is_truncated(program: Path, job_dir: Path, tmp_path: Path, size: int) -> None:
    path = job_dir / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    status, words = run(program, job_dir, tmp_path / "out")
    assert status == 2
    assert words.startswith(f"{path}: ")
    assert words.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{", '{"format": 1', '{"format": "1"}', "[" * 100, '{"format": 1} 2', '"\\q"'])
def test_the_c_port_says_in_one_line_what_is_wrong_with_a_job(
    program: Path, job_dir: Path, tmp_path: Path, text: str
) -> None:
    (job_dir / "job.json").write_text(text)
    status, words = run(program, job_dir, tmp_path / "out")
    assert status == 2
    assert words.count("\n") == 1
