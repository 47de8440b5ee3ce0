"""Pieces of an expert's matrices: together they are the expert, and each has the scales of its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.reference import streaming
from grok_conformance.reference.checkpoint.layout import LeafFile
from grok_conformance.reference.checkpoint.pickles import StoredArray, StoredLeaf
from grok_conformance.reference.streaming import pieces
from grok_conformance.reference.streaming.pieces import PIECE_BYTES, largest_divisor, pieces_of
from grok_conformance.reference.streaming.reading import read_region
from tests.reference.streaming.tiny_streams import save


def test_the_pieces_of_an_expert_are_its_rows_with_their_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config, params = save(tmp_path)
    stored = params["transformer/decoder_layer_1/moe/linear_1"]["w"]
    k, m = stored.shape[1:]
    monkeypatch.setattr(pieces, "PIECE_BYTES", k * m // 16)  # half a group of scales
    with streaming.open_stream(folder, config) as stream:
        found = stream.expert(1, 3).linear_1
    assert [piece.start for piece in found] == list(range(0, k, k // 16))
    for piece in found:
        weight, scales = (np.empty(region.shape, region.dtype) for region in piece.regions)
        read_region(piece.regions[0], weight.reshape(-1).view(np.uint8))
        read_region(piece.regions[1], scales.reshape(-1).view(np.uint8))
        np.testing.assert_array_equal(weight, np.asarray(stored.weight)[3, piece.start : piece.stop])
        np.testing.assert_array_equal(scales, np.asarray(stored.scales)[3, [piece.start * 8 // k]])


def test_a_small_matrix_is_one_piece_with_all_its_scales(tmp_path: Path) -> None:
    folder, config, params = save(tmp_path)
    with streaming.open_stream(folder, config) as stream:
        (piece,) = stream.expert(0, 0).linear
    stored = params["transformer/decoder_layer_0/moe/linear"]["w"]
    assert [region.shape for region in piece.regions] == [stored.weight.shape[1:], stored.scales.shape[1:]]


@pytest.mark.parametrize(("k", "m", "groups"), [(6144, 32768, 1), (6144, 32768, 8), (32768, 6144, 8)])
def test_grok_1_is_read_in_pieces_of_some_dozens_of_megabytes(k: int, m: int, groups: int) -> None:
    weight = StoredArray(np.dtype(np.int8), (8, k, m), "C", 0)
    scales = StoredArray(np.dtype(np.float16), (8, groups, m), "C", 0)
    found = pieces_of(LeafFile("moe/linear", "w", Path("tensor"), StoredLeaf(weight, scales)), 0)
    sizes = {sum(region.num_bytes for region in piece.regions) for piece in found}
    assert len(sizes) == 1
    assert PIECE_BYTES / 4 < sizes.pop() < PIECE_BYTES * 1.01
    assert found[-1].stop == k


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_largest_divisor_up_to_a_limit(number: int, limit: int) -> None:
    assert largest_divisor(number, limit) == max(d for d in range(1, limit + 1) if number % d == 0)
