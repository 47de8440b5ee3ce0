"""The manifest of a golden set is read as it was written, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.manifest import (
    MANIFEST_DIGEST,
    NOISE,
    describe,
    file_digest,
    parse_manifest,
    write_manifest,
)
from tests.harness.honest_port import golden


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = golden().manifest
    write_manifest(tmp_path, manifest)
    text, checksum = ((tmp_path / name).read_bytes() for name in (MANIFEST, MANIFEST_DIGEST))
    assert parse_manifest(tmp_path / MANIFEST, text, checksum) == manifest


def test_one_altered_byte_is_found_by_its_digest(tmp_path: Path) -> None:
    write_manifest(tmp_path, golden().manifest)
    text, checksum = ((tmp_path / name).read_bytes() for name in (MANIFEST, MANIFEST_DIGEST))
    with pytest.raises(FileError, match=MANIFEST):
        parse_manifest(tmp_path / MANIFEST, text.replace(b"bfloat16", b"bfloat17", 1), checksum)


def test_every_file_of_the_set_is_known() -> None:
    files = golden().manifest.files()
    assert {MANIFEST, MANIFEST_DIGEST, NOISE} <= files
    assert len(files) == 3 + 2 * len(golden().manifest.presets) + 3 * len(golden().manifest.cases)


def test_a_tensor_is_known_by_dtype_shape_and_digest_whatever_its_order() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    described = describe({"b": x, "a": x.copy()})
    assert list(described) == ["a", "b"]
    assert described["a"] == described["b"]
    assert (described["a"].dtype, described["a"].shape) == ("float32", (2, 3))
    assert describe({"a": x + 1})["a"].sha256 != described["a"].sha256


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "empty").startswith("e3b0c44298fc1c14")
