"""A folder of dumps is judged as an engine's answers, through its tap map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.running.jobs import write_job
from grok_conformance.harness.sessions.dumps import answers_from_dumps
from tests.harness.honest_port import golden, golden_case, golden_taps

CASE = "square/prefill/padded_batch.float32"
ADAPTER = """
from grok_conformance.harness.contract import CandidateInfo
from grok_conformance.harness.contract.tap_map import TapSource, shown_taps

TAP_MAP = (
    TapSource("layers.*.router.logits", "router.{layer}", "e t b"),
    TapSource("logits", "lm_head", "b t v", padded="v"),
)
INFO = CandidateInfo(name="dumped", version="1", taps=shown_taps(TAP_MAP))
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    preset, case = golden_case(CASE)
    write_job(tmp_path / "job", golden().manifest.suite, preset, [case])
    (tmp_path / "adapter.py").write_text(ADAPTER)
    return tmp_path / "job"


def dump(tmp_path: Path, **changed: Array) -> Path:
    taps = golden_taps(CASE)
    folder = tmp_path / "dump" / "000-prefill-padded_batch-float32"
    folder.mkdir(parents=True)
    routers = {f"router.{i}": np.array(taps[f"call0/layers.0{i}.router.logits"]).transpose() for i in range(2)}
    logits = np.pad(np.array(taps["call0/logits"]), ((0, 0), (0, 0), (0, 27)))
    arrays: dict[str, Any] = {**routers, "lm_head": logits, **changed}
    np.savez(folder / "call0.npz", **arrays)
    return tmp_path / "dump"


def test_a_dump_becomes_answers_tap_for_tap(job: Path, tmp_path: Path) -> None:
    answers_from_dumps(job, dump(tmp_path), "npz", tmp_path / "adapter.py", tmp_path / "out")
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    from grok_conformance.harness.formats.tensors import open_tensors  # noqa: PLC0415 - for one look

    taps = open_tensors(folder / "taps.safetensors")
    assert set(taps) == {"call0/logits", "call0/layers.00.router.logits", "call0/layers.01.router.logits"}
    np.testing.assert_array_equal(taps["call0/logits"], golden_taps(CASE)["call0/logits"])


def test_judge_reads_dumps(job: Path, tmp_path: Path) -> None:
    words = [
        "judge",
        str(job),
        str(dump(tmp_path)),
        "--format",
        "npz",
        "--map",
        str(tmp_path / "adapter.py"),
        "--quiet",
    ]
    assert main([*words, "--json", str(tmp_path / "run.json")]) == 0
    (verdict,) = json.loads((tmp_path / "run.json").read_text())["candidates"]
    assert (verdict["name"], verdict["status"]) == ("dumped", "pass")


def test_what_does_not_fit_is_told_with_its_case(job: Path, tmp_path: Path) -> None:
    folder = dump(tmp_path, lm_head=np.zeros((2, 5, 30), np.float32))
    with pytest.raises(FileError, match=r"000-prefill-padded_batch-float32: call0: logits: shape \[2, 5, 30\]"):
        answers_from_dumps(job, folder, "npz", tmp_path / "adapter.py", tmp_path / "out")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(FileError, match=r"empty\.py: must have INFO"):
        answers_from_dumps(job, folder, "npz", tmp_path / "empty.py", tmp_path / "out2")


def test_a_map_goes_with_a_format(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", str(job), str(tmp_path), "--format", "torch"]) == 2
    assert "--map goes with a --format of dumps" in capsys.readouterr().err
