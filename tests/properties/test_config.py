"""Laws of the configuration's sizes (SPEC §1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness import contract
from grok_conformance.reference import config

WIDTHS = st.integers(1, 10_000)
WIDENING_FACTORS = st.sampled_from([1, 1.5, 2, 2.5, 4, 6, 8])


@given(WIDTHS, WIDENING_FACTORS)
def test_ffn_size_is_two_thirds_of_the_widened_size_up_to_the_next_multiple_of_8(width: int, factor: float) -> None:
    size = config.ffn_size(width, factor)
    two_thirds = int(factor * width) * 2 // 3
    assert size % 8 == 0
    assert two_thirds <= size < two_thirds + 8


@given(WIDTHS, st.integers(1, 16), WIDENING_FACTORS)
def test_a_wider_model_has_no_narrower_experts(width: int, more: int, factor: float) -> None:
    assert config.ffn_size(width, factor) <= config.ffn_size(width + more, factor)


@given(WIDTHS, WIDENING_FACTORS)
def test_the_reference_and_the_harness_agree_on_ffn_size(width: int, factor: float) -> None:
    assert config.ffn_size(width, factor) == contract.ffn_size(width, factor)
