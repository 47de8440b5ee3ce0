"""Two tap files differ by what was computed, in roundings of the narrower dtype."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.sessions.tap_differences import tap_difference, tap_differences
from tests.harness.sessions.two_runs import TAPS


def differ(taps: Mapping[str, Array]) -> dict[str, str]:
    return {
        each.tap: each.problem or f"{each.num_changed} by {each.roundings:g}"
        for each in tap_differences(TAPS, taps)
        if each.problem or each.num_changed
    }


def test_equal_files_do_not_differ_even_in_nan_and_zero_of_either_sign() -> None:
    odd = np.array([np.nan, 0.0, np.inf], np.float32)
    assert tap_difference("x", odd, odd * np.array([1, -1, 1], np.float32)).num_changed == 0
    assert differ(TAPS) == {}


def test_a_difference_is_counted_in_roundings_of_the_narrower_dtype() -> None:
    near = np.array(TAPS["call0/logits"])
    near[0, 1, 2] *= 1 + 2.0**-22
    found = tap_difference("call0/logits", TAPS["call0/logits"], near)
    assert (found.num_changed, found.index) == (1, (0, 1, 2))
    assert found.roundings == pytest.approx(4, rel=1e-3)
    narrow = tap_difference("call0/logits", TAPS["call0/logits"], near.astype(DTYPES["bfloat16"]))
    assert narrow.num_changed == 0


def test_what_no_number_can_tell_is_told_in_words() -> None:
    assert differ({"call0/logits": TAPS["call0/logits"][:, :1]}) == {
        "call0/embedding": "missing in OBSERVED",
        "call0/logits": "shape [1, 1, 3], expected [1, 2, 3]",
    }
    assert differ({**TAPS, "call0/layers.00.output": TAPS["call0/logits"]}) == {
        "call0/layers.00.output": "only in OBSERVED"
    }
    nan = np.full((1, 2, 3), np.nan, np.float32)
    assert differ({**TAPS, "call0/logits": nan}) == {"call0/logits": "6 of 6 values are not finite in one file"}


def test_nothing_rounds_an_integer_so_that_any_other_one_is_infinitely_far() -> None:
    index = np.array([[[3, 1], [0, 2]]], np.int32)
    other = np.array([[[3, 1], [0, 4]]], np.int32)
    found = tap_difference("call0/layers.00.moe.expert_index", index, other)
    assert (found.num_changed, found.largest, found.roundings, found.index) == (1, 2.0, np.inf, (0, 1, 1))


def test_taps_come_in_the_order_of_the_forward_pass() -> None:
    names = [
        "call0/embedding",
        "call0/layers.00.attention.norm",
        "call0/layers.00.output",
        "call0/logits",
        "call1/embedding",
    ]
    taps = dict.fromkeys(reversed(names), TAPS["call0/logits"])
    assert [each.tap for each in tap_differences(taps, taps)] == names
