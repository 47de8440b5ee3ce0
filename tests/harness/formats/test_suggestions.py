from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.formats.suggestions import unknown


def test_a_name_misspelt_is_answered_with_the_nearest() -> None:
    assert unknown("colour", "gren", ["red", "green", "blue"]) == "no colour 'gren'; did you mean green?"


def test_a_pattern_that_matches_nothing_is_answered_with_names_that_begin_like_it() -> None:
    assert "did you mean stress/prefill?" in unknown("case", "strees/*", ["stress/prefill", "long/decode"])


def test_a_name_like_none_is_answered_with_what_there_is() -> None:
    assert unknown("colour", "7", ["red", "blue"]) == "no colour '7'; there are blue, red"
    assert unknown("number", "x", [str(i) for i in range(9)]) == "no number 'x'; there are 9, such as 0, 1, 2"
    assert unknown("colour", "red", []) == "no colour 'red'; there are none"


@given(st.text(), st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True)))
def test_the_answer_is_one_printable_line_whatever_the_name(name: str, known: list[str]) -> None:
    assert unknown("name", name, known).isprintable()
