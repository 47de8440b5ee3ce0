"""The projection is the one that golden/README.md specifies, and estimates distances as well as it says."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.large.sketch import SKETCH_SIZE, STANDARD_ERROR, project, signs, splitmix64

MASK = 2**64 - 1


def word(seed: int, number: int) -> int:
    """Return one output of the generator, as golden/README.md states it."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_generator_gives_the_published_numbers() -> None:
    assert splitmix64(1234567, 0, 3).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_signs_are_the_bits_of_the_words_from_the_lowest() -> None:
    for number in (0, 1, 20_000):
        bits = [word(7, number) >> j & 1 for j in range(SKETCH_SIZE)]
        assert signs(7, number, number + 1)[0].tolist() == [1 - 2 * bit for bit in bits]


def test_a_token_longer_than_a_block_is_projected_as_one() -> None:
    x = np.random.default_rng(0).standard_normal((2, 40_000))
    drawn = signs(3, 0, 40_000).astype(np.float64)
    np.testing.assert_allclose(project(x, 3), x @ drawn / np.sqrt(SKETCH_SIZE), rtol=1e-12, atol=1e-10)


def test_squared_distances_are_estimated_without_bias_to_the_stated_error() -> None:
    x = np.random.default_rng(0).standard_normal((1, 300))
    estimates = np.array([np.square(project(x, seed)).sum() for seed in range(2000)]) / np.square(x).sum()
    assert abs(estimates.mean() - 1) < 4 * STANDARD_ERROR / np.sqrt(2000)
    assert 0.9 * STANDARD_ERROR < estimates.std() <= 1.1 * STANDARD_ERROR


def test_what_is_not_finite_counts_as_nothing() -> None:
    x = np.array([[1.0, np.nan, -np.inf, 2.0]])
    assert np.array_equal(project(x, 0), project(np.array([[1.0, 0.0, 0.0, 2.0]]), 0))
