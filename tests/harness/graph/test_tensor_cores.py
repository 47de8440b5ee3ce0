from __future__ import annotations

import math

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.tensor_cores import TENSOR_CORE, contract_on_tensor_core, cut

RANDOM = np.random.default_rng(0)
X, W = (RANDOM.standard_normal(shape).astype(np.float32).astype(np.float64) for shape in ((3, 20), (20, 4)))


def by_hand(x: Array, w: Array, block: int, bits: int) -> float:
    """Add the products of one row and one column as the paper says, in Python's exact integers."""
    total = 0.0
    for start in range(0, len(x), block):
        addends = [total, *(float(a) * float(b) for a, b in zip(x[start:][:block], w[start:][:block], strict=True))]
        place = max(math.frexp(one)[1] for one in addends if one) - bits
        units = sum(math.trunc(math.ldexp(one, -place)) for one in addends)
        total = math.ldexp(units, place)
        place = math.frexp(total)[1] - 24
        total = math.ldexp(math.trunc(math.ldexp(total, -place)), place)
    return total


@pytest.mark.parametrize(("block", "bits"), [(4, 24), (8, 25), (16, 26), (32, 27)])
def test_blocks_are_cut_off_as_by_hand(block: int, bits: int) -> None:
    made = contract_on_tensor_core(X, W, f"{block} with {bits}").value
    assert made.tolist() == [[by_hand(row, column, block, bits) for column in W.T] for row in X]


def test_every_choice_gives_other_sums_all_of_them_too_small() -> None:
    x, w = np.abs(X), np.abs(W)
    made = [contract_on_tensor_core(x, w, choice).value for choice in TENSOR_CORE.choices if choice != "none"]
    assert len({each.tobytes() for each in made}) == len(made)
    assert all((each < x @ w).all() for each in made)


def test_nothing_is_cut_from_what_is_0_and_towards_0_from_the_rest() -> None:
    assert cut(np.array([0.0, 1.75, -1.75]), None, 2).tolist() == [0.0, 1.5, -1.5]
    assert cut(np.zeros(2), np.zeros(2), 24).tolist() == [0.0, 0.0]
