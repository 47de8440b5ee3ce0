"""Laws of the rotation by positions and of RMSNorm, in float32 (SPEC §4)."""

from __future__ import annotations

from typing import Any

import haiku as hk
import hypothesis.extra.numpy as arrays
import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.reference import layers

H, D = 8, 8
ROUNDOFF = 2.0**-24
EPS = 1e-5
VALUES = st.integers(-256, 256).map(lambda n: n / 64)  # no denormals, which a platform may flush to zero
SMALL_VALUES = VALUES.map(lambda x: x / 512)
HEADS = arrays.arrays(np.float32, (1, 3, 2, H), elements=VALUES)  # [b, t, heads, h]
POSITIONS = arrays.arrays(np.int32, (1, 3), elements=st.integers(0, 4000))  # [b, t]
ROWS = arrays.arrays(np.float32, (4, D), elements=VALUES | SMALL_VALUES)
GAINS = arrays.arrays(np.float32, (D,), elements=VALUES)


@jax.jit
def rotate(x: Any, positions: Any) -> Any:
    return hk.transform(lambda: layers.RotaryEmbedding(H)(x, positions)).apply({}, None)


@jax.jit
def norm(x: Any, scale: Any) -> Any:
    return hk.transform(lambda: layers.RMSNorm(name="norm")(x)).apply({"norm": {"scale": scale}}, None)


def wide(x: Any) -> Any:
    return np.asarray(x, np.float64)


def pair_norms(x: Any) -> Any:
    """Return the lengths of the pairs (j, j + h/2) that are rotated together, [..., h/2]."""
    first, second = np.split(wide(x), 2, axis=-1)
    return np.hypot(first, second)


@given(HEADS, POSITIONS)
def test_a_rotation_keeps_the_length_of_every_pair(x: Any, positions: Any) -> None:
    before, after = pair_norms(x), pair_norms(rotate(x, positions))
    assert (np.abs(after - before) <= 8 * ROUNDOFF * before + 1e-30).all()


@given(HEADS, HEADS, POSITIONS, st.integers(0, 4000))
def test_scores_of_rotated_heads_depend_on_the_distance_alone(query: Any, key: Any, positions: Any, more: int) -> None:
    def scores(shift: int) -> Any:
        rotated = wide(rotate(query, positions + shift)), wide(rotate(key, positions[:, ::-1] + shift))
        return (rotated[0] * rotated[1]).sum(-1)

    size = np.linalg.norm(wide(query), axis=-1) * np.linalg.norm(wide(key), axis=-1)
    farthest = positions.max() + more
    assert (np.abs(scores(more) - scores(0)) <= ROUNDOFF * (4 * farthest + 32) * size + 1e-30).all()


@given(HEADS, POSITIONS, POSITIONS)
def test_rotations_compose_by_adding_their_positions(x: Any, first: Any, second: Any) -> None:
    twice, once = wide(rotate(rotate(x, first), second)), wide(rotate(x, first + second))
    farthest = (first + second).max()
    assert (
        np.abs(twice - once) <= ROUNDOFF * (4 * farthest + 32) * np.linalg.norm(wide(x), axis=-1).max() + 1e-30
    ).all()


@given(HEADS)
def test_position_0_rotates_nothing(x: Any) -> None:
    assert np.array_equal(rotate(x, np.zeros((1, 3), np.int32)), x)


@given(ROWS, GAINS, st.sampled_from([2.0, 3.0, 0.5, 0.25]))
def test_rms_norm_does_not_see_the_size_of_a_row_beyond_eps(x: Any, scale: Any, factor: float) -> None:
    before, after = wide(norm(x, scale)), wide(norm(np.float32(factor) * x, scale))
    mean_square = np.mean(np.square(wide(x)), axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        beyond = EPS / mean_square * max(1.0, factor**-2)
    allowed = np.abs(before) * np.minimum(beyond, 2 * max(1.0, factor)) + 16 * ROUNDOFF * np.abs(before)
    assert (np.abs(after - before) <= allowed + 1e-30).all()


@given(ROWS)
def test_the_mean_square_of_a_normed_row_is_1_up_to_eps(x: Any) -> None:
    mean_square = np.mean(np.square(wide(x)), axis=-1)
    found = np.mean(np.square(wide(norm(x, np.ones(D, np.float32)))), axis=-1)
    assert np.allclose(found, mean_square / (mean_square + EPS), rtol=32 * ROUNDOFF, atol=1e-12)


@given(ROWS, GAINS, arrays.arrays(np.float32, (D,), elements=st.sampled_from([-1, 1])))
def test_signs_pass_through_rms_norm(x: Any, scale: Any, signs: Any) -> None:
    assert np.array_equal(norm(x * signs, scale), np.asarray(norm(x, scale)) * signs)


@given(ROWS, GAINS)
def test_a_gain_of_2_doubles_a_normed_row(x: Any, scale: Any) -> None:
    assert np.array_equal(norm(x, 2 * scale), 2 * np.asarray(norm(x, scale)))
