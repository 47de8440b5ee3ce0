"""The canonical model streamed: weights by their stored names, and stages that go on from any of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large import canonical
from grok_conformance.reference.checkpoint.synthesis import synthesize
from grok_conformance.reference.config import PRESETS
from tests.conformance import large_local


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("checkpoint"), PRESETS["small"])


def test_weights_are_found_by_their_stored_names_and_mapped_from_their_files(checkpoint: Path) -> None:
    config = large_local.plan_of("small", checkpoint).config
    weights = canonical.CheckpointWeights(checkpoint, config)
    assert len(weights) == len(list(weights))
    table = weights["language_model/in_out_embed/embeddings"]
    assert table.shape == (config.vocab_size, config.model.emb_size)
    assert isinstance(table.base, np.memmap) or not table.flags.writeable
    quantised = [name for name in weights if name.endswith(".weight")]
    assert {weights[name].dtype for name in quantised} == {np.dtype(np.int8)}
    assert all(name.removesuffix(".weight") + ".scales" in weights for name in quantised)


def test_the_digest_of_a_checkpoint_is_that_of_its_files(checkpoint: Path, tmp_path: Path) -> None:
    assert canonical.checkpoint_digest(checkpoint) == canonical.checkpoint_digest(checkpoint)
    other = synthesize(tmp_path, PRESETS["small"], seed=1)
    assert canonical.checkpoint_digest(other) != canonical.checkpoint_digest(checkpoint)


def test_a_folder_without_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no checkpoint here"):
        canonical.checkpoint_digest(tmp_path)


def test_the_device_is_recorded_in_words() -> None:
    recorded = canonical.record_device()
    assert recorded["device_platform"] == "cpu"
    assert all(isinstance(value, str) and value for value in recorded.values())
