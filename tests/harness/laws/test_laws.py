"""Each law changes a run as its sentence says."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.laws.draws import Draw, drawn
from grok_conformance.harness.laws.laws import LAWS, Law, in_steps, later_token, more_padding, other_rows, unchanged

DRAW = Draw(seed=5, batch_size=3, num_tokens=6, vocab_size=20)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_a_law_speaks_of_rows_and_positions_that_both_runs_have(law: Law) -> None:
    for draw in drawn(8):
        base, changed = unchanged(draw), law.experiment(draw)
        assert len(changed.rows) == len(changed.num_positions) == len(changed.calls[0].tokens)
        assert all(0 <= row < draw.batch_size for row in changed.rows)
        for row, positions in zip(changed.rows, changed.num_positions, strict=True):
            assert positions <= base.num_positions[row]


def test_names_are_unique_and_sentences_are_sentences() -> None:
    assert len({law.name for law in LAWS}) == len(LAWS)
    assert all(" " in law.sentence and not law.sentence.endswith(".") for law in LAWS)


def test_a_later_token_is_changed_and_no_earlier_one() -> None:
    base, changed = unchanged(DRAW), later_token(DRAW)
    first = max(changed.num_positions)
    np.testing.assert_array_equal(changed.calls[0].tokens[:, :first], base.calls[0].tokens[:, :first])
    assert changed.num_positions != base.num_positions


def test_other_rows_come_with_a_stranger_of_whom_nothing_is_compared() -> None:
    changed = other_rows(DRAW)
    assert changed.num_positions[0] == 0
    assert len(changed.rows) == DRAW.batch_size


def test_more_padding_adds_slots_and_no_tokens() -> None:
    base, changed = unchanged(DRAW), more_padding(DRAW)
    assert changed.calls[0].tokens.shape[1] > base.calls[0].tokens.shape[1]
    np.testing.assert_array_equal(changed.calls[0].lengths, base.calls[0].lengths)
    assert not changed.calls[0].tokens[:, base.calls[0].tokens.shape[1] :].any()


def test_in_steps_every_token_but_the_first_is_decoded() -> None:
    changed = in_steps(DRAW)
    assert [call.kind for call in changed.calls] == ["prefill"] + ["decode"] * DRAW.num_tokens
