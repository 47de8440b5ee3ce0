"""The arrays of a batch of slots."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from grok_conformance.reference import KVMemory, Memory
from grok_conformance.reference.steps import insert_slice


def test_insert_slice_replaces_one_row_and_pads_it_with_zeros() -> None:
    memory = Memory([KVMemory(jnp.full((3, 6, 2, 4), 9.0), jnp.full((3, 6, 2, 4), 8.0), jnp.array([4, 5, 6]))])
    row = Memory([KVMemory(jnp.full((1, 4, 2, 4), 1.0), jnp.full((1, 4, 2, 4), 2.0), jnp.array([4]))])
    inserted = insert_slice(memory, row, 3, 1).layers[0]
    np.testing.assert_array_equal(inserted.step, [4, 3, 6])
    np.testing.assert_array_equal(inserted.arrays()[0][:, :, 0, 0], [[9] * 6, [1, 1, 1, 1, 0, 0], [9] * 6])
    np.testing.assert_array_equal(inserted.arrays()[1][:, :, 1, 3], [[8] * 6, [2, 2, 2, 2, 0, 0], [8] * 6])
