"""The further runs of a case: what each records, and which of them a case can have."""

from __future__ import annotations

from grok_conformance.harness.cases.reruns import RERUNS, reruns_named, reruns_of

BY_NAME = {rerun.name: rerun for rerun in RERUNS}


def test_what_is_recorded_is_told_call_by_call() -> None:
    assert BY_NAME["again"].taps_by_call(2) == (("*",), ("*",))
    assert BY_NAME["silent"].taps_by_call(3) == ((), (), ("*",))
    assert BY_NAME["untapped"].taps_by_call(1) == (("logits",),)


def test_only_a_rerun_that_records_everything_is_set_apart_by_history_and_chance_alone() -> None:
    assert {rerun.name for rerun in RERUNS if rerun.is_whole} == {"again", "later"}


def test_a_case_of_one_call_has_none_that_needs_two() -> None:
    assert [rerun.name for rerun in reruns_of(1)] == ["again", "untapped", "later"]
    assert reruns_of(2) == RERUNS


def test_reruns_are_made_at_once_or_after_all_cases_and_unknown_names_are_passed_over() -> None:
    names = ("later", "again", "of a newer harness")
    assert [rerun.name for rerun in reruns_named(names, after_all=False)] == ["again"]
    assert [rerun.name for rerun in reruns_named(names, after_all=True)] == ["later"]
