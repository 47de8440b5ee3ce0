"""Laws of the 8-bit weights, for any shape and number of groups (SPEC §3)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.reference import QuantizedWeight8bit, quantization
from grok_conformance.reference.checkpoint import arrays as stored_arrays
from grok_conformance.reference.checkpoint import encoding, pickles
from tests.properties.drawn import DENORMALS, MAGNITUDES, SCALES_DTYPES, grouped_weights

WEIGHTS = grouped_weights()
INT8 = arrays.arrays(np.int8, (2, 12, 5), elements=st.integers(-128, 127))
GROUPS = st.sampled_from([1, 2, 3, 12])


def by_row(scales: Any, num_rows: int) -> Any:
    """Return the scale of every row, float64 [..., k, n]."""
    return np.repeat(scales.astype(np.float64), num_rows // scales.shape[-2], axis=-2)


def unrounded(q: QuantizedWeight8bit) -> Any:
    """Return the product weight · scale in float64, where it is exact."""
    return q.weight.astype(np.float64) * by_row(q.scales, q.shape[-2])


@given(WEIGHTS, SCALES_DTYPES)
def test_the_error_is_at_most_half_a_scale(drawn: Any, dtype: Any) -> None:
    w, num_groups = drawn
    q = quantization.quantize(w, num_groups, dtype)
    scales = by_row(q.scales, w.shape[-2])
    kept = np.abs(w) <= 127.5 * scales
    assert (np.abs(unrounded(q) - w) <= scales / 2)[kept].all()
    assert (np.abs(q.weight[~kept]) == 127).all()


@given(grouped_weights(DENORMALS), SCALES_DTYPES)
def test_a_group_of_denormals_or_zeros_stays_finite_and_keeps_its_error(drawn: Any, dtype: Any) -> None:
    w, num_groups = drawn
    q = quantization.quantize(w, num_groups, dtype)
    assert (q.scales.astype(np.float64) > 0).all()
    assert (np.abs(unrounded(q) - w) <= np.maximum(by_row(q.scales, w.shape[-2]) / 2, np.abs(w) / 2)).all()


@given(INT8, GROUPS, st.sampled_from([-127, 127]), st.data())
def test_quantising_what_was_quantised_changes_nothing(weight: Any, num_groups: int, top: int, data: Any) -> None:
    weight = np.maximum(weight, -127)
    weight.reshape(2, num_groups, -1, 5)[:, :, 0] = top
    scales = data.draw(arrays.arrays(np.float32, (2, num_groups, 5), elements=MAGNITUDES))
    again = quantization.quantize(unrounded(QuantizedWeight8bit(weight, scales)), num_groups, np.float32)
    assert np.array_equal(again.weight, weight)
    assert np.array_equal(again.scales, scales)


@given(WEIGHTS, SCALES_DTYPES)
def test_the_opposite_weight_has_the_opposite_integers_and_the_same_scales(drawn: Any, dtype: Any) -> None:
    w, num_groups = drawn
    q, opposite = (quantization.quantize(x, num_groups, dtype) for x in (w, -w))
    assert np.array_equal(opposite.weight, -q.weight)
    assert np.array_equal(opposite.scales, q.scales)


@given(WEIGHTS, st.data())
def test_output_channels_do_not_know_of_each_other(drawn: Any, data: Any) -> None:
    w, num_groups = drawn
    order = data.draw(st.permutations(range(w.shape[-1])))
    q, permuted = quantization.quantize(w, num_groups), quantization.quantize(w[..., order], num_groups)
    assert np.array_equal(permuted.weight, q.weight[..., order])
    assert np.array_equal(permuted.scales, q.scales[..., order])


@given(WEIGHTS, SCALES_DTYPES)
def test_groups_are_quantised_apart(drawn: Any, dtype: Any) -> None:
    w, num_groups = drawn
    parts = [quantization.quantize(part, 1, dtype) for part in np.split(w, num_groups, axis=-2)]
    q = quantization.quantize(w, num_groups, dtype)
    assert np.array_equal(q.weight, np.concatenate([part.weight for part in parts], axis=-2))
    assert np.array_equal(q.scales, np.concatenate([part.scales for part in parts], axis=-2))


@given(INT8, GROUPS, SCALES_DTYPES, st.data())
def test_dequantising_any_int8_rounds_the_product_to_the_dtype_of_the_scales(
    weight: Any, num_groups: int, dtype: Any, data: Any
) -> None:
    scales = data.draw(arrays.arrays(np.float32, (2, num_groups, 5), elements=MAGNITUDES)).astype(dtype)
    q = QuantizedWeight8bit(weight, scales)
    dequantized = np.asarray(quantization.dequantize(q))
    assert dequantized.dtype == dtype
    assert np.array_equal(dequantized, unrounded(q).astype(np.float32).astype(dtype))


@given(INT8, GROUPS, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_finer_groups_for_the_shards_hold_the_same_weight(weight: Any, num_groups: int, num_shards: int) -> None:
    scales = np.arange(1, 10 * num_groups + 1, dtype=np.float32).reshape(2, num_groups, 5)
    q = QuantizedWeight8bit(weight, jnp.asarray(scales))
    finer = quantization.split_groups(q, num_shards)
    assert finer.scales.shape[-2] % num_shards == 0
    assert np.array_equal(
        unrounded(QuantizedWeight8bit(weight, np.asarray(finer.scales))), unrounded(QuantizedWeight8bit(weight, scales))
    )


@given(INT8, GROUPS, SCALES_DTYPES)
def test_every_int8_comes_back_from_a_file(weight: Any, num_groups: int, dtype: Any) -> None:
    weight.flat[0] = -128  # no quantisation of ours makes it, but a file may hold it
    scales = np.arange(1, 10 * num_groups + 1).reshape(2, num_groups, 5).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensor00000_000"
        path.write_bytes(b"".join(encoding.encode(weight, scales)))
        stored = pickles.decode(path)
        assert stored.scales is not None
        read = [stored_arrays.read_array(path, array) for array in (stored.weight, stored.scales)]
    assert [array.tobytes() for array in read] == [weight.tobytes(), scales.tobytes()]
