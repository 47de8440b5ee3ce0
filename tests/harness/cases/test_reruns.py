from grok_conformance.harness.cases.reruns import RERUNS, reruns_named, reruns_of

NAMES = {rerun.name: rerun for rerun in RERUNS}


def test_a_rerun_without_taps_records_in_its_last_call_alone_what_the_first_run_does() -> None:
    assert NAMES["silent"].taps_by_call(3) == ((), (), ("*",))
    assert NAMES["untapped"].taps_by_call(2) == (("logits",), ("logits",))
    assert NAMES["again"].taps_by_call(2) == NAMES["later"].taps_by_call(2) == (("*",), ("*",))


def test_only_runs_with_all_taps_are_whole() -> None:
    assert {rerun.name for rerun in RERUNS if rerun.is_whole} == {"again", "parallel", "later"}


def test_what_the_next_call_shows_needs_a_next_call() -> None:
    assert {rerun.name for rerun in reruns_of(1)} == set(NAMES) - {"silent"}
    assert {rerun.name for rerun in reruns_of(2)} == set(NAMES)


def test_reruns_are_made_at_once_or_after_all_cases_and_unknown_names_are_passed_over() -> None:
    asked = (*NAMES, "of a later version")
    assert [rerun.name for rerun in reruns_named(asked, after_all=False)] == ["again", "untapped", "silent"]
    assert [rerun.name for rerun in reruns_named(asked, after_all=True)] == ["later"]
