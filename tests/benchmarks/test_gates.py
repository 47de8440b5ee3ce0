from __future__ import annotations

import re
import time
from functools import partial

import pytest

from tests.benchmarks.gates import assert_ratio, assert_seconds, cost_rows, least_seconds

SLOW, FAST = partial(time.sleep, 0.03), partial(time.sleep, 0.003)


def test_an_action_that_takes_longer_than_its_limit_allows_is_told_with_the_ratio() -> None:
    figures: dict[str, object] = {}
    with pytest.raises(AssertionError, match=r"^\d+\.\d\d times its yardstick of 0\.\d{4} s: 2\.0 at most"):
        assert_ratio(figures.__setitem__, SLOW, FAST, 2.0, num_rounds=3)
    assert figures["limit"] == "2 ×"
    assert re.fullmatch(r"\d+\.\d\d × 0\.\d{3} s", str(figures["measured"]))


def test_an_action_within_its_limit_passes() -> None:
    figures: dict[str, object] = {}
    assert_ratio(figures.__setitem__, FAST, SLOW, 1.0, num_rounds=3)
    assert_ratio(figures.__setitem__, SLOW, FAST, 1000.0, num_rounds=3)
    assert figures["limit"] == "1000 ×"


def test_a_start_that_takes_longer_than_its_limit_in_seconds_is_told() -> None:
    figures: dict[str, object] = {}
    with pytest.raises(AssertionError, match=r"^0\.\d\d s: 0\.01 at most"):
        assert_seconds(figures.__setitem__, SLOW, 0.01)
    assert figures["limit"] == "0.01 s"
    assert re.fullmatch(r"0\.\d\d s", str(figures["measured"]))


def test_a_start_within_its_limit_passes() -> None:
    figures: dict[str, object] = {}
    assert_seconds(figures.__setitem__, FAST, 10.0)
    assert figures["limit"] == "10 s"


def report(test: str, *properties: tuple[str, str]) -> pytest.TestReport:
    path = "tests/benchmarks/bench_harness.py"
    return pytest.TestReport(f"{path}::{test}", (path, 0, test), {}, "passed", None, "call", user_properties=properties)


def test_every_figure_is_a_row_with_the_words_of_its_test_and_other_tests_have_none() -> None:
    reports = [
        report("test_a_start_is_quick[harness --help]", ("measured", "0.08 s"), ("limit", "0.4 s")),
        report("test_digesting", ("measured", "2.00 GB/s")),
        report("test_something_else"),
    ]
    assert cost_rows(reports) == [
        ("a start is quick[harness --help]", "0.08 s", "0.4 s"),
        ("digesting", "2.00 GB/s", "–"),
    ]


def test_actions_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def cold_at_first() -> None:
        time.sleep(0.5 if not calls else 0)
        calls.append("first")

    seconds = least_seconds(cold_at_first, lambda: calls.append("second"), num_rounds=1)
    assert calls == ["first", "second"] * 2
    assert seconds[0] < 0.5
