"""A compared value that is changed beyond what rounding does is never passed, whichever it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.checks.evidence import gather
from grok_conformance.harness.contract import CandidateInfo, split_tap
from grok_conformance.harness.formats.tensors import open_tensors, write_tensors
from grok_conformance.harness.judging.groups import read_groups, run_size
from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.running.answers import read_answer
from grok_conformance.harness.running.jobs import read_job
from tests.harness.honest_port import golden, golden_case
from tests.robustness.readers import CASE, write_judged

EVERYTHING = CandidateInfo(name="port", version="1")

CHANGES = (np.nan, np.inf, -np.inf, 1e30, -7.5, 123.0)
"""What stands in the place of a value, where it is not that value already."""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy: known faults are tried on infinite inputs too
def test_a_changed_value_is_not_passed(tmp_path: Path, num_trials: int, tried: Counter[str]) -> None:
    write_judged(tmp_path)
    groups, job = read_groups(golden(), CASE), read_job(tmp_path / "job")
    path = tmp_path / "out" / job.cases[0].folder / "taps.safetensors"
    sound, random = dict(open_tensors(path)), np.random.default_rng(8)

    def status() -> str:
        (judged,) = judge_candidate(groups, [read_answer(tmp_path / "out", job)], run_size(groups), {})
        return judged.verdicts[0].status

    assert status() == "pass"
    preset, case = golden_case(CASE)
    masks = gather(preset, case, EVERYTHING, sound).masks
    for trial in range(max(3, num_trials // 200)):
        name = str(random.choice(sorted(sound)))
        changed = np.array(sound[name])
        call, _, tap = name.removeprefix("call").partition("/")
        compared = np.argwhere(np.broadcast_to(masks[int(call), split_tap(tap)[1]], changed.shape))
        index = tuple(int(i) for i in compared[int(random.integers(len(compared)))])
        with np.errstate(invalid="ignore"):
            value = np.array(CHANGES[int(random.integers(len(CHANGES)))]).astype(changed.dtype)
        if changed[index] == value:
            value = np.zeros((), changed.dtype)
        changed[index] = value
        write_tensors(path, {**sound, name: changed})
        assert status() != "pass", f"trial {trial}: {name}{list(index)} = {value}"
        tried["changed values"] += 1
