"""The folder of a large capture: stages whole or absent, altered tensors found, one writer at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.formats.tensors import write_tensors
from grok_conformance.harness.large import store
from tests.harness.large.tiny_capture import make_plan

TENSORS = {"call0/embedding": np.arange(6, dtype=np.float32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store.begin(tmp_path, make_plan())
    store.write_stage(tmp_path, "embedding", None, TENSORS, [np.ones(2, np.float32)])
    return tmp_path


def test_a_stage_and_what_it_carries_on_read_back(folder: Path) -> None:
    np.testing.assert_array_equal(store.read_stage(folder, "embedding")["call0/embedding"], TENSORS["call0/embedding"])
    carried = store.read_carried(folder, "embedding")
    assert carried is not None
    assert [x.tolist() for x in carried] == [[1.0, 1.0]]
    done, streams = store.finished(folder, make_plan())
    assert (done, [x.tolist() for x in streams]) == (1, [[1.0, 1.0]])


def test_an_altered_tensor_is_named_and_its_stage_made_again(folder: Path) -> None:
    write_tensors(folder / "embedding.safetensors", {"call0/embedding": TENSORS["call0/embedding"] + 1})
    assert "tensor 'call0/embedding' was altered" in store.stage_problem(folder, "embedding")
    with pytest.raises(FileError, match="restore it, or capture again"):
        store.read_stage(folder, "embedding")
    assert store.finished(folder, make_plan())[0] == 0


@pytest.mark.parametrize("field", ["before", "tensors", "carried"])
def test_a_record_without_a_table_of_tensors_is_none(folder: Path, field: str) -> None:
    path = folder / "embedding.json"
    write_json(path, json.loads(path.read_text()) | {field: None})
    with pytest.raises(FileError, match="not the record of a stage"):
        store.read_stage(folder, "embedding")


def test_a_capture_with_another_plan_is_not_begun_over_one(folder: Path) -> None:
    with pytest.raises(FileError, match="another seed"):
        store.begin(folder, make_plan(seed=5))


def test_a_folder_is_held_by_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        store.locked(tmp_path),
        pytest.raises(FileError, match="another capture is writing there"),
        store.locked(tmp_path),
    ):
        pytest.fail("held twice")
    with store.locked(tmp_path):
        assert (tmp_path / store.LOCK).exists()


def test_a_capture_without_a_manifest_is_not_complete(folder: Path) -> None:
    with pytest.raises(FileError, match="no complete capture"):
        store.read_manifest(folder)
