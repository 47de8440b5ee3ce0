from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.cases.case import Cache, Call, Case
from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import tap_specs
from grok_conformance.harness.graph.masks import compared, expand, visible_keys

PAD = UNEQUAL.pad_token


@dataclass(frozen=True)
class Drawn:
    """The tokens of one call [b, t], the steps of its rows, and the slots of the cache."""

    tokens: list[list[int]]
    steps: list[int]
    num_slots: int


@st.composite
def calls(draw: st.DrawFn) -> Drawn:
    b, t = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    token = st.sampled_from([PAD, PAD + 1, 7])
    tokens = draw(st.lists(st.lists(token, min_size=t, max_size=t), min_size=b, max_size=b))
    steps = draw(st.lists(st.integers(0, 6), min_size=b, max_size=b))
    return Drawn(tokens, steps, max(steps) + t + draw(st.integers(0, 3)))


def sees(tokens: list[int], step: int, query: int, key: int) -> bool:
    """Tell whether a query of a call sees a slot: the rule of SPEC §4.4 for one pair."""
    if len(tokens) == 1:
        return tokens[0] > PAD and key <= step
    if key > step + query:
        return False
    of_this_call = key >= step
    return not of_this_call or tokens[key - step] > PAD


def case_of(drawn: Drawn, lengths: list[int], *, published_degenerate: bool = False) -> Case:
    empty = np.zeros((UNEQUAL.model.num_layers, len(lengths), drawn.num_slots, 1, 1))
    call = Call("extend", np.array(drawn.tokens, np.int32), np.array(lengths, np.int32))
    return Case(
        id="unequal/extend/drawn",
        preset="unequal",
        fprop_dtype="float32",
        why="a test",
        origin="a test",
        calls=(call,),
        preload=Cache(empty, empty, np.array(drawn.steps, np.int32)),
        published_degenerate=published_degenerate,
    )


@given(calls())
def test_visible_keys_follow_the_rule_of_the_specification_pair_by_pair(drawn: Drawn) -> None:
    config = replace(UNEQUAL, sequence_len=drawn.num_slots)
    visible = visible_keys(config, np.array(drawn.tokens), np.array(drawn.steps))
    for row, (tokens, step) in enumerate(zip(drawn.tokens, drawn.steps, strict=True)):
        for query in range(len(tokens)):
            expected = [sees(tokens, step, query, key) for key in range(drawn.num_slots)]
            assert visible[row, query].tolist() == expected


def test_pads_inside_a_prompt_are_masked_in_their_own_call_and_seen_by_the_next() -> None:
    prefill = visible_keys(UNEQUAL, np.array([[5, PAD, 6]]), np.array([0]))
    decode = visible_keys(UNEQUAL, np.array([[7]]), np.array([3]))
    assert prefill[0, 2].tolist() == [True, False, True] + [False] * 6
    assert decode[0, 0].tolist() == [True] * 4 + [False] * 5


def test_a_decoded_pad_token_sees_no_key() -> None:
    assert not visible_keys(UNEQUAL, np.array([[PAD]]), np.array([3])).any()


@given(calls(), st.data())
def test_compared_tokens_are_real_and_see_a_key_and_slots_end_after_the_call(drawn: Drawn, data: st.DataObject) -> None:
    t = len(drawn.tokens[0])
    lengths = [data.draw(st.integers(0, t)) for _ in drawn.tokens]
    config = replace(UNEQUAL, sequence_len=drawn.num_slots)
    masks = compared(case_of(drawn, lengths), 0, config)
    for row, (tokens, step, length) in enumerate(zip(drawn.tokens, drawn.steps, lengths, strict=True)):
        blind = [
            step + i for i in range(length) if not any(sees(tokens, step, i, key) for key in range(drawn.num_slots))
        ]
        for slot in range(drawn.num_slots):
            assert masks["slots"][row, slot] == (slot < step + length and slot not in blind)
        for query in range(t):
            seen = [sees(tokens, step, query, key) for key in range(drawn.num_slots)]
            real = query < length and any(seen)
            assert masks["tokens"][row, query] == real
            assert masks["visible"][row, query].tolist() == [real and see for see in seen]
            assert masks["weights"][row, query].tolist() == [real] * drawn.num_slots


def test_queries_that_see_no_key_count_only_in_a_published_degenerate_case() -> None:
    drawn = Drawn([[PAD, 5]], [0], UNEQUAL.sequence_len)
    ordinary = compared(case_of(drawn, [2]), 0, UNEQUAL)
    degenerate = compared(case_of(drawn, [2], published_degenerate=True), 0, UNEQUAL)
    assert ordinary["tokens"].tolist() == [[False, True]]
    assert degenerate["tokens"].tolist() == [[True, True]]
    assert ordinary["slots"].tolist() == [[False, True] + [False] * (UNEQUAL.sequence_len - 2)]
    assert degenerate["slots"].tolist() == [[True] * 2 + [False] * (UNEQUAL.sequence_len - 2)]


@pytest.mark.parametrize("spec", tap_specs(), ids=lambda spec: spec.operation)
def test_a_mask_is_expanded_along_the_axes_of_its_tap(spec: object) -> None:
    sizes = {"b": 2, "t": 3, "s": 4}
    assert isinstance(spec, type(tap_specs()[0]))
    letters = {"tokens": "bt", "slots": "bs", "visible": "bts", "weights": "bts"}[spec.compared]
    mask = np.zeros([sizes[letter] for letter in letters], bool)
    mask[(1,) * len(letters)] = True
    expanded = expand(mask, spec)
    assert expanded.shape == tuple(sizes[axis] if axis in letters else 1 for axis in spec.axes)
    assert expanded.sum() == 1
    assert expanded[tuple(1 if axis in letters else 0 for axis in spec.axes)]
