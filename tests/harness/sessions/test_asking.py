"""A candidate is asked in halves, which hold all its groups once and both compute dtypes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grok_conformance.harness.judging.groups import read_groups
from grok_conformance.harness.judging.selection import asked_groups
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.asking import Question, ask_at_once, halves
from grok_conformance.harness.sessions.run import write_jobs
from tests.harness.honest_port import golden


def test_halves_hold_every_group_once_cost_much_the_same_and_have_all_compute_dtypes() -> None:
    groups = asked_groups(golden(), seed=3)
    parts = halves(groups)
    assert sorted(place for part in parts for place in part) == list(range(len(groups)))
    layers = [group.preset.config.model.num_layers for group in groups]
    costs = [sum(layers[i] * len(case.calls) for i in part for case in groups[i].cases) for part in parts]
    assert max(costs) < 1.1 * min(costs)
    assert [{groups[i].fprop_dtype for i in part} for part in parts] == [{"float32", "bfloat16"}] * 2
    assert halves(groups[:1]) == [(0,)]


def test_the_answers_of_both_halves_come_in_the_order_of_the_groups(tmp_path: Path) -> None:
    groups = read_groups(golden(), "[ud]*/prefill/*")
    jobs = write_jobs(groups, "1.0.0", tmp_path / "jobs")
    question = Question(groups, jobs, tuple(tmp_path / "answers" / job.name for job in jobs))
    told: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        seconds, answers = ask_at_once(pool, find_candidate("numpy_float64"), question, Limits(), told.append)()
    asked = [[case.id for case in group.cases] for group in groups]
    assert [list(each) for each in answers] == asked
    assert sorted(told) == sorted(case for cases in asked for case in cases)
    assert {answer.status for each in answers for answer in each.values()} == {"answered"}
    assert seconds > 0
