"""Judges at work in processes of their own say what one judge here would say."""

from __future__ import annotations

import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.narrowing import Narrow
from grok_conformance.harness.judging.submission import judge_submission
from grok_conformance.harness.sessions.judges import JudgeError, judge_side_by_side, judges
from tests.harness.judging.test_submission import submission


def test_judges_side_by_side_say_what_one_judge_says_submission_after_submission(tmp_path: Path) -> None:
    whole = submission(tmp_path)
    with judges(whole.groups) as at_work:
        assert set(at_work) == {"bfloat16", "float32"}
        found = [judge_side_by_side(whole, at_work, {}) for _ in range(2)]
    assert [repr(each) for each in found] == [repr(judge_submission(whole, {}))] * 2  # NaN is unlike itself
    assert all(judge.process.poll() is not None for judge in at_work.values())


def test_a_run_in_one_compute_dtype_and_a_narrowed_one_need_no_other_process(tmp_path: Path) -> None:
    whole = submission(tmp_path)
    with judges(whole.in_dtype("float32").groups) as at_work:
        assert at_work == {}
    with judges(whole.groups) as at_work:
        for judge in at_work.values():
            judge.process.kill()
        narrow = replace(whole, narrow=Narrow(("attention.key",)))
        assert [each.verdicts[0].status for each in judge_side_by_side(narrow, at_work, {})] == ["pass", "pass"]
        part = whole.in_dtype("float32")
        assert repr(judge_side_by_side(part, at_work, {})) == repr(judge_submission(part, {}))


def test_an_answer_that_is_changed_while_it_is_judged_is_an_error_of_that_file(tmp_path: Path) -> None:
    whole = submission(tmp_path)
    for taps in tmp_path.rglob("taps.safetensors"):
        taps.write_bytes(taps.read_bytes()[::-1])
    with judges(whole.groups) as at_work, pytest.raises(FileError, match=r"safetensors: was changed while it"):
        judge_side_by_side(whole, at_work, {})


def test_a_judge_that_fails_says_where_and_one_that_is_gone_is_missed(tmp_path: Path) -> None:
    whole = submission(tmp_path)
    broken = replace(whole, answers=({}, whole.answers[1]))
    with judges(whole.groups) as at_work, pytest.raises(JudgeError, match="KeyError"):
        judge_side_by_side(broken, at_work, {})
    with judges(whole.groups) as at_work:
        for judge in at_work.values():
            os.kill(judge.process.pid, signal.SIGKILL)
            judge.process.wait()
        with pytest.raises(JudgeError, match="ended before it had judged"):
            judge_side_by_side(whole, at_work, {})


def test_judges_that_are_still_being_told_of_their_groups_end_with_a_run_that_ends(tmp_path: Path) -> None:
    large = np.zeros(2**23)  # more than a pipe holds
    groups = [
        replace(group, preset=replace(group.preset, weights={**group.preset.weights, "large": large}))
        for group in submission(tmp_path).groups
    ]
    with judges(groups) as at_work:
        pass
    assert all(judge.process.poll() is not None for judge in at_work.values())


def test_groups_that_cannot_be_told_are_an_error_and_no_wait(tmp_path: Path) -> None:
    whole = submission(tmp_path)
    groups = tuple(replace(group, expected=lambda _case: {}) for group in whole.groups)
    with judges(groups) as at_work, pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        judge_side_by_side(replace(whole, groups=groups), at_work, {})
