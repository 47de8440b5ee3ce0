"""The faulty forms of functions are what they say: narrower roundings, other activations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.faults import functions
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.operations import experts
from grok_conformance.harness.graph.rounding import AS_PUBLISHED
from grok_conformance.harness.graph.row import Exact, Scope

SCOPE = Scope(UNEQUAL, np.ones((1, 1), np.int32), np.zeros(1, np.int32), np.ones((1, 1, 1), bool), 0.0)


@pytest.mark.parametrize(
    ("value", "rounded"), [(1.0, 1.0), (1 + 2.0**-11, 1 + 2.0**-10), (1 + 2.0**-12, 1.0), (-3e5, -300032.0)]
)
def test_tf32_keeps_ten_bits_behind_the_first_and_rounds_ties_away_from_zero(value: float, rounded: float) -> None:
    found = functions.round_to_tf32(np.array([value]))[0]
    assert found == rounded
    assert np.ldexp(np.frexp(found)[0], functions.TF32_BITS) % 1 == 0


def test_a_changed_operation_is_the_right_one_with_its_result_changed() -> None:
    x, up = np.linspace(-3, 3, 12).reshape(1, 1, 1, 12), np.ones((1, 1, 1, 12))
    right = experts.gated_hidden(x, up, scope=SCOPE, plan=AS_PUBLISHED)
    wrong = functions.changed(experts.gated_hidden, np.negative)(x, up, scope=SCOPE, plan=AS_PUBLISHED)
    np.testing.assert_array_equal(wrong.value, -right.value)
    np.testing.assert_array_equal(wrong.bound, right.bound)


def test_one_shard_of_two_sums_over_half_the_terms() -> None:
    x, w = np.ones((1, 1, 8)), np.ones((8, 3))
    scope = SCOPE

    def product(x: np.ndarray, w: np.ndarray, **_: object) -> Exact:
        return Exact(x @ w)

    assert functions.first_half(product)(x, w, scope=scope, plan=AS_PUBLISHED).value.tolist() == [[[4.0] * 3]]
    assert math.isclose(product(x, w).value[0, 0, 0], 8.0)


def test_a_faulty_rotation_whose_products_cancel_may_round_them_as_the_right_one_may() -> None:
    positions = np.arange(4)
    scope = Scope(UNEQUAL, np.ones((1, 4), np.int32), np.zeros(1, np.int32), np.ones((1, 4, 4), bool), 0.0)
    phase = positions * 1.0  # of the first pair
    x = np.zeros((1, 4, 1, 2), np.float32)
    x[0, :, 0, 0], x[0, :, 0, 1] = (
        np.sin(phase) * (1 + 1e-6),
        np.cos(phase),
    )  # the first turns to nearly 0
    cos, sin = (round_to(table, "bfloat16").astype(np.float32) for table in (np.cos(phase), np.sin(phase)))
    computed = x[0, :, 0, 0] * cos - x[0, :, 0, 1] * sin  # each product rounded to float32
    exact = functions.rotated(phases=lambda table: round_to(table, "bfloat16"))(x.astype(np.float64), scope=scope)
    error, allowed = abs(computed - exact.value[0, :, 0, 0]), 2.0**-24 * np.asarray(exact.bound)[0, :, 0, 0]
    assert (error <= allowed).all()
    assert (error > 4 * 2.0**-24 * abs(exact.value[0, :, 0, 0])).any()
