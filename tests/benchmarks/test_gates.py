from __future__ import annotations

import time
from functools import partial

import pytest

from tests.benchmarks.gates import assert_ratio, assert_seconds, least_seconds

SLOW, FAST = partial(time.sleep, 0.03), partial(time.sleep, 0.003)


def test_an_action_that_takes_longer_than_its_limit_allows_is_told_with_the_ratio() -> None:
    with pytest.raises(AssertionError, match=r"^\d+\.\d\d times its yardstick of 0\.\d{4} s: 2\.0 at most"):
        assert_ratio(SLOW, FAST, 2.0, num_rounds=3)


def test_an_action_within_its_limit_passes() -> None:
    assert_ratio(FAST, SLOW, 1.0, num_rounds=3)
    assert_ratio(SLOW, FAST, 1000.0, num_rounds=3)


def test_a_start_that_takes_longer_than_its_limit_in_seconds_is_told() -> None:
    assert_seconds(FAST, 10.0)
    with pytest.raises(AssertionError, match=r"^0\.\d\d s: 0\.01 at most"):
        assert_seconds(SLOW, 0.01)


def test_actions_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def cold_at_first() -> None:
        time.sleep(0.5 if not calls else 0)
        calls.append("first")

    seconds = least_seconds(cold_at_first, lambda: calls.append("second"), num_rounds=1)
    assert calls == ["first", "second"] * 2
    assert seconds[0] < 0.5
