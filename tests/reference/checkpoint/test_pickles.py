from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from grok_conformance.reference.checkpoint import pickles
from grok_conformance.reference.checkpoint.encoding import encode
from grok_conformance.reference.checkpoint.pickles import CheckpointError, StoredArray, decode
from tests.reference.checkpoint.hostile_pickles import DECOY, EXECUTING, GOOD, HOSTILE

MAX_BYTES = 1 << 20
"""What a file may make the reader allocate: the honest ones take some 20 kB."""

STANDARD_UNPICKLER = f"""
import contextlib, pathlib, pickle, sys

class QuantizedWeight8bit:
    pass

for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    with contextlib.suppress(Exception):
        pickle.loads(path.read_bytes())
    decoy = pathlib.Path({DECOY!r})
    if decoy.exists():
        decoy.unlink()
        print(path.name)
"""


RESIDENT_PEAK = """
import pathlib, resource, runpy, sys
module, honest, *hostile = sys.argv[1:]
pickles = runpy.run_path(module)
pickles["decode"](pathlib.Path(honest))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
num_refused = 0
for path in hostile:
    try:
        pickles["decode"](pathlib.Path(path))
    except pickles["CheckpointError"]:
        num_refused += 1
print(num_refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
"""Prints how many files were refused, and by how many bytes they raised the process's largest resident size."""


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        decode(path)
    return str(caught.value)


def read(path: Path, stored: StoredArray) -> np.ndarray:
    return np.memmap(path, stored.dtype, "r", stored.offset, stored.shape, stored.order)


def test_the_honest_file_made_of_the_same_parts_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "tensor00000_000").write_bytes(GOOD)
    stored = decode(tmp_path / "tensor00000_000")
    assert stored.scales is None
    assert (str(stored.weight.dtype), stored.weight.shape) == ("float32", (2, 3))


@pytest.mark.parametrize("attempt", HOSTILE)
def test_hostile_file_is_refused_in_one_line_that_names_it(
    attempt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    imported = set(sys.modules)
    path = tmp_path / "tensor00000_000"
    message = refusal(path, HOSTILE[attempt])
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < len(str(path)) + 300
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert set(sys.modules) == imported


@pytest.mark.parametrize("attempt", HOSTILE)
def test_hostile_file_makes_the_reader_allocate_little(attempt: str, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        refusal(tmp_path / "tensor00000_000", HOSTILE[attempt])
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


def test_the_standard_unpickler_runs_the_commands_in_these_files(tmp_path: Path) -> None:
    files, work = tmp_path / "files", tmp_path / "work"
    files.mkdir()
    work.mkdir()
    for attempt, content in EXECUTING.items():
        (files / attempt).write_bytes(content)
    command = [sys.executable, "-W", "ignore", "-c", STANDARD_UNPICKLER, str(files)]
    child = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)  # noqa: S603 - the script above
    assert set(child.stdout.splitlines()) == set(EXECUTING)


def test_reading_every_hostile_file_does_not_raise_the_peak_of_resident_memory(tmp_path: Path) -> None:
    files = []
    for number, content in enumerate([GOOD, *HOSTILE.values()]):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(content)
    command = [sys.executable, "-c", RESIDENT_PEAK, pickles.__file__, *map(str, files)]
    child = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - the script above
    num_refused, raised_bytes = map(int, child.stdout.split())
    assert num_refused == len(HOSTILE)
    assert raised_bytes < MAX_BYTES


def test_arrays_of_the_standard_pickler_are_found_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "tensor00000_000"
    expected = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    path.write_bytes(pickle.dumps(expected, protocol=4))
    np.testing.assert_array_equal(read(path, decode(path).weight), expected, strict=True)


def test_array_in_column_major_order_is_found_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tensor00000_000"
    expected = np.asfortranarray(np.arange(6, dtype=np.int8).reshape(2, 3))
    path.write_bytes(pickle.dumps(expected, protocol=4))
    stored = decode(path).weight
    assert stored.order == "F"
    np.testing.assert_array_equal(read(path, stored), expected, strict=True)


FLOATS = st.sampled_from([np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)])
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=40)


@given(dtype=FLOATS, shape=SHAPES, scales_shape=st.none() | SHAPES)
def test_decode_finds_the_arrays_that_encode_wrote(
    dtype: np.dtype,
    shape: tuple[int, ...],
    scales_shape: tuple[int, ...] | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    generator = np.random.default_rng(len(shape))
    scales = None if scales_shape is None else generator.standard_normal(scales_shape).astype(dtype)
    integers = generator.integers(-127, 128, shape)
    weight = integers.astype(dtype if scales is None else np.int8)
    path = tmp_path_factory.mktemp("leaf") / "tensor00000_000"
    path.write_bytes(b"".join(bytes(piece) for piece in encode(weight, scales)))
    stored = decode(path)
    np.testing.assert_array_equal(read(path, stored.weight), weight, strict=True)
    assert (stored.scales is None) == (scales is None)
    if stored.scales is not None:
        np.testing.assert_array_equal(read(path, stored.scales), scales, strict=True)


@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_file_with_one_byte_changed_is_refused_or_still_lies_within_itself(
    place: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("leaf") / "tensor00000_000"
    content = bytearray(GOOD)
    content[place] = byte
    path.write_bytes(content)
    try:
        stored = decode(path).weight
    except CheckpointError:
        return
    assert stored.offset + stored.num_bytes <= len(content)


@pytest.mark.parametrize("length", range(0, len(GOOD), 7))
def test_file_cut_short_is_refused(length: int, tmp_path: Path) -> None:
    refusal(tmp_path / "tensor00000_000", GOOD[:length])


def test_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor00000_000"):
        decode(tmp_path / "tensor00000_000")
