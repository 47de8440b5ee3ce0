"""Drawn models: spelled as text, read back, made smaller, and always models that can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.laws.draws import (
    SMALLEST,
    Draw,
    config_of,
    draw_model,
    drawn,
    fitted,
    parse_draw,
    prompt_and_step,
    prompt_lengths,
    sequences_of,
    smaller,
    smallest_of,
)


@given(st.integers(0, 10_000))
def test_a_draw_is_read_back_from_its_text_and_is_a_model_that_can_be(seed: int) -> None:
    draw = draw_model(seed)
    assert parse_draw(str(draw)) == draw == fitted(draw)
    config = config_of(draw)
    assert config.model.num_q_heads % config.model.num_kv_heads == 0
    assert config.model.num_selected_experts <= config.model.num_experts


@pytest.mark.parametrize(
    ("text", "problem"),
    [("size=3", "is not SIZE=NUMBER"), ("key_size=x", "is not SIZE=NUMBER"), ("key_size=3", "no such model")],
)
def test_a_text_that_is_no_draw_is_refused(text: str, problem: str) -> None:
    with pytest.raises(FileError, match=problem):
        parse_draw(text)


def test_smaller_draws_have_one_size_less_and_the_smallest_has_none() -> None:
    draw = Draw(num_layers=2, batch_size=3)
    assert {str(each) for each in smaller(draw)} >= {"batch_size=3", "num_layers=2 batch_size=2", "num_layers=2"}
    assert list(smaller(SMALLEST)) == [replace(SMALLEST, num_experts=1)]  # dense
    assert list(smaller(replace(SMALLEST, num_experts=1))) == []


def test_sizes_that_may_be_smaller_alone_are_made_smaller_together() -> None:
    draw = Draw(num_layers=2, batch_size=3)
    assert smallest_of(draw, [replace(draw, num_layers=1), replace(draw, batch_size=1)]) == SMALLEST


def test_every_sequence_is_a_prompt_and_what_follows_without_pads() -> None:
    for draw in drawn(6):
        sequences, lengths = sequences_of(draw), prompt_lengths(draw)
        assert sequences.min() > 0
        assert lengths.max() == draw.num_tokens
        prefill, step = prompt_and_step(draw, sequences)
        assert [call.kind for call in (prefill, step)] == ["prefill", "decode"]
        for row, length in enumerate(lengths):
            np.testing.assert_array_equal(prefill.tokens[row, :length], sequences[row, :length])
            assert (prefill.tokens[row, length:] == 0).all()
            assert step.tokens[row, 0] == sequences[row, length]
