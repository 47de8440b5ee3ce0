"""Tiles of an expert's hidden width, and the number of rows that is computed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.reference.streaming.experts import MAX_WHOLE, padded_rows, tile_size


@given(rows=st.integers(1, 4096), groups=st.integers(1, 16))
def test_tiles_divide_the_width_and_do_not_straddle_groups_of_scales(rows: int, groups: int) -> None:
    size = tile_size(rows * groups, groups)
    assert rows % size == 0 or size == rows * groups <= MAX_WHOLE


def test_grok_1_is_computed_in_tiles_of_64_columns() -> None:
    assert tile_size(32768, 8) == 64


@given(st.integers(1, 10_000))
def test_rows_are_padded_by_a_quarter_or_seven_at_most(num_rows: int) -> None:
    assert 0 <= padded_rows(num_rows) - num_rows <= max(7, num_rows / 4)
    assert padded_rows(padded_rows(num_rows)) == padded_rows(num_rows)


@pytest.mark.parametrize("doubling", range(5, 12))
def test_few_sizes_are_compiled_for_each_doubling(doubling: int) -> None:
    assert len({padded_rows(n) for n in range(2**doubling + 1, 2 ** (doubling + 1) + 1)}) <= 4
