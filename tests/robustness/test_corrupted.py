"""Corrupted golden sets, jobs, answers and checkpoints: each is refused in one line, with status 2, and harms nothing.

`nox -s robustness` tries more than 10,000; a part of them is among the tests.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.formats.tensors import open_tensors, write_tensors
from grok_conformance.harness.running import python_runner
from grok_conformance.harness.running.answers import read_answer
from grok_conformance.harness.running.jobs import read_job
from grok_conformance.reference import checkpoint
from grok_conformance.reference.checkpoint.__main__ import main as checkpoint_main
from tests.harness.tiny_golden import write_tiny
from tests.harness.tiny_job import write_three_cases
from tests.reference.checkpoint.tiny_checkpoints import DENSE, random_params
from tests.robustness.corruptions import corrupt, truncations
from tests.robustness.trials import everything, outcome, replaced

MAX_MEMORY_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own, with a neighbour that must stay as it is."""
    root = tmp_path_factory.mktemp("robustness")
    (root / "neighbour.txt").write_text("not yours")
    return root


@pytest.fixture(scope="module")
def golden(folder: Path) -> Path:
    write_tiny(folder / "v1")
    return folder / "v1"


def test_a_corrupted_golden_set_is_refused(golden: Path, num_trials: int, tried: Counter[str]) -> None:
    random, before = np.random.default_rng(0), everything(golden.parent)
    names = sorted(everything(golden))
    for trial in range(num_trials):
        name = names[int(random.integers(len(names)))]
        what, data = corrupt(random, name, (golden / name).read_bytes())
        with replaced(golden / name, data):
            found = outcome(main, ["check-golden", str(golden)])
        assert found.refused, f"trial {trial}: {what} of {name}: {found}"
        assert str(golden) in found.said
        tried["golden sets"] += 1
    assert everything(golden.parent) == before


def test_a_tensor_file_cut_at_any_boundary_is_refused(
    golden: Path, request: pytest.FixtureRequest, tried: Counter[str]
) -> None:
    path = golden / "cases/dense/prefill/padded/taps.safetensors"
    every = 1 if request.config.getoption("--thorough") else 20
    for data in list(truncations(path.read_bytes()))[::every]:
        with replaced(path, data), pytest.raises(FileError) as refused:
            open_tensors(path)
        assert str(refused.value).isprintable()
        tried["tensor files"] += 1


def test_swapped_files_are_refused(golden: Path) -> None:
    files = everything(golden)
    for name, data in files.items():
        for other, its_data in files.items():
            if data != its_data:
                with replaced(golden / name, its_data):
                    assert outcome(main, ["check-golden", str(golden)]).refused, f"{other} in the place of {name}"


def test_a_corrupted_job_is_refused(folder: Path, num_trials: int, tried: Counter[str]) -> None:
    job_dir = folder / "job"
    job_dir.mkdir()
    write_three_cases(job_dir)
    (folder / "out").mkdir()
    random, before = np.random.default_rng(1), everything(folder)
    path = job_dir / "job.json"
    for trial in range(num_trials // 4):
        what, data = corrupt(random, "job.json", path.read_bytes())
        tried["jobs"] += 1
        with replaced(path, data):
            try:
                job = read_job(job_dir)
            except FileError as error:
                found = outcome(lambda _: python_runner.main("no.candidate", job_dir, folder / "out"), ())
                assert found.refused
                assert found.said == f"{error}\n"  # noqa: PT017 - a job that is still one is no error
                continue
        for case in job.cases:  # a changed text is a job still, but never one that leads elsewhere
            assert (job_dir / case.inputs).parent == job_dir / "inputs", f"trial {trial}: {what}"
            assert Path(case.folder).name == case.folder
    assert everything(folder) == before


def test_a_corrupted_answer_is_an_answer_with_a_status(folder: Path, num_trials: int, tried: Counter[str]) -> None:
    job_dir, out = folder / "answered_job", folder / "answers"
    job_dir.mkdir()
    job = write_three_cases(job_dir)
    random = np.random.default_rng(2)
    write_json(out_file(out, "info.json"), {"name": "port", "version": "1", "taps": ["logits", "*.kv.*"]})
    for case in job.cases:
        taps = {key: random.standard_normal((1, 2, 3)).astype(np.float32) for key in sorted(case.keys(case.taps))}
        write_tensors(out_file(out, case.folder, "taps.safetensors"), taps)
        write_json(out_file(out, case.folder, "result.json"), {"status": "answered", "seconds": 0.5})
    before = everything(folder)
    names = sorted(everything(out))
    for trial in range(num_trials // 4):
        name = names[int(random.integers(len(names)))]
        what, data = corrupt(random, name, (out / name).read_bytes())
        with replaced(out / name, data):
            answers = read_answer(out, job)
            for answer in answers.values():
                assert answer.status in {"answered", "unsupported", "error", "missing"}, f"trial {trial}: {what}"
                assert answer.reason.isprintable()
                assert all(array.size >= 0 for array in answer.taps.values())
        tried["answers"] += 1
    assert everything(folder) == before


def out_file(out: Path, *parts: str) -> Path:
    path = out.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_corrupted_checkpoint_is_refused(folder: Path, num_trials: int, tried: Counter[str]) -> None:
    written = checkpoint.save(folder / "checkpoint", DENSE, random_params(DENSE))
    random, before = np.random.default_rng(3), everything(folder)
    names = sorted(everything(written))
    for trial in range(num_trials // 4):
        name = names[int(random.integers(len(names)))]
        what, data = corrupt(random, name, (written / name).read_bytes())
        with replaced(written / name, data):
            found = outcome(checkpoint_main, ["inspect", str(written), "--verify"])
        assert found.refused, f"trial {trial}: {what} of {name}: {found}"
        tried["checkpoints"] += 1
    assert everything(folder) == before


def test_memory_stays_bounded_whatever_a_file_claims(golden: Path) -> None:
    random = np.random.default_rng(4)
    path = golden / "cases/dense/prefill/padded/taps.safetensors"
    tracemalloc.start()
    try:
        for _ in range(30):
            _, data = corrupt(random, path.name, path.read_bytes())
            with replaced(path, data):
                outcome(main, ["check-golden", str(golden)])
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY_BYTES
    finally:
        tracemalloc.stop()
