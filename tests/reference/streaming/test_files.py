"""A streamed checkpoint: the regions of every layer, and the memory that reading them takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok_conformance.reference import streaming
from grok_conformance.reference.checkpoint.pickles import CheckpointError
from grok_conformance.reference.streaming.blocks import take_rows
from tests.reference.streaming.tiny_streams import save


def test_the_regions_of_a_layer_are_all_its_bytes(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    with streaming.open_stream(folder, config) as stream:
        for layer in range(config.model.num_layers):
            matrices = [matrix for e in range(config.model.num_experts) for matrix in stream.expert(layer, e)]
            experts = [region for matrix in matrices for piece in matrix for region in piece.regions]
            regions = [*stream.layer(layer), *experts]
            assert sum(region.num_bytes for region in regions) == streaming.layer_bytes(stream, layer)


def test_memory_is_that_of_a_fixed_number_of_slots(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    with (
        streaming.open_stream(folder, config, num_workers=1) as few,
        streaming.open_stream(folder, config, num_workers=4) as many,
    ):
        assert 0 < few.memory_bytes < many.memory_bytes
        assert many.memory_bytes % many.slot_bytes == 0


def test_an_expert_s_arrays_are_its_share_of_the_stored_ones(tmp_path: Path) -> None:
    folder, config, params = save(tmp_path)
    stored = params["transformer/decoder_layer_1/moe/linear"]["w"].weight
    with streaming.open_stream(folder, config) as stream:
        (piece,) = stream.expert(1, 3).linear
        with stream.reader.request(piece.regions).result() as (weight, _):
            np.testing.assert_array_equal(take_rows(weight, 0, piece.stop), np.asarray(stored)[3])
        kinds = stream.expert_values(1)
    assert sorted(kinds) == ["expert_activation", "expert_hidden", "expert_output", "expert_up"]
    assert kinds["expert_output"].shape == (config.model.emb_size,)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    _, config, _ = save(tmp_path / "here")
    with pytest.raises(CheckpointError), streaming.open_stream(tmp_path / "nowhere", config):
        pytest.fail("opened")
