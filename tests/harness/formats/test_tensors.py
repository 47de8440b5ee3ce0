import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import METADATA, STORED_DTYPES, digest, open_tensors, write_tensors

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@st.composite
def stored_arrays(draw: st.DrawFn) -> Array:
    dtype = draw(st.sampled_from(list(STORED_DTYPES.values())))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = int(np.prod(shape)) * dtype.itemsize
    values = st.binary(min_size=size, max_size=size)
    if dtype == np.bool_:
        values = st.lists(st.booleans(), min_size=size, max_size=size).map(bytes)
    array: Array = np.frombuffer(draw(values), np.uint8).view(dtype).reshape(shape)
    return array


names = st.text(min_size=1, max_size=8).filter(lambda name: name.isprintable() and name != METADATA)


@SHARED_FOLDER
@given(tensors=st.dictionaries(names, stored_arrays(), max_size=4))
def test_every_bit_dtype_and_shape_survives_writing_and_reading(tmp_path: Path, tensors: dict[str, Array]) -> None:
    path = tmp_path / "tensors.safetensors"
    write_tensors(path, tensors)
    read = open_tensors(path)
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()
        assert read[name].flags.aligned


@SHARED_FOLDER
@given(tensors=st.dictionaries(names, stored_arrays(), max_size=4))
def test_equal_tensors_give_equal_bytes_in_any_order(tmp_path: Path, tensors: dict[str, Array]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_tensors(one, tensors)
    write_tensors(other, dict(reversed(list(tensors.items()))))
    assert one.read_bytes() == other.read_bytes()


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, STORED_DTYPES["BF16"])}
    write_tensors(tmp_path / "file", tensors)
    with safetensors.safe_open(tmp_path / "file", "np") as file:
        assert file.metadata() is None
        assert np.array_equal(file.get_tensor("a"), tensors["a"])
        assert file.get_slice("b").get_dtype() == "BF16"


def test_what_the_safetensors_library_writes_is_read_with_its_metadata_ignored(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    safetensors.numpy.save_file({"a": array}, tmp_path / "file", metadata={"format": "np"})
    read = open_tensors(tmp_path / "file")
    assert list(read) == ["a"]
    assert np.array_equal(read["a"], array)


def test_transposed_and_big_endian_arrays_are_stored_by_value(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensors(tmp_path / "file", {"transposed": array.T, "swapped": array.astype(">f4")})
    read = open_tensors(tmp_path / "file")
    assert np.array_equal(read["transposed"], array.T)
    assert digest(read["swapped"]) == digest(array)


def test_digest_tells_tensors_apart_that_differ_in_one_bit() -> None:
    zeros = np.zeros(4, np.float32)
    assert digest(zeros) != digest(-zeros)


def test_read_tensors_cannot_be_changed(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"a": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="read-only"):
        open_tensors(tmp_path / "file")["a"][0] = 1


@pytest.mark.parametrize(
    ("name", "array", "complaint"),
    [
        ("a", np.zeros(2, np.complex64), "dtype complex64 cannot be stored; use one of"),
        ("a", np.array([None]), "dtype object cannot be stored"),
        ("a\n", np.zeros(2, np.float32), "not a name of a tensor"),
        (METADATA, np.zeros(2, np.float32), "not a name of a tensor"),
    ],
)
def test_write_tensors_refuses_what_a_file_cannot_hold(tmp_path: Path, name: str, array: Array, complaint: str) -> None:
    with pytest.raises(FileError, match=complaint):
        write_tensors(tmp_path / "file", {name: array})
    assert not list(tmp_path.iterdir())


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


def write_raw(path: Path, header: Any, data_bytes: int) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_bytes))


@pytest.mark.parametrize(
    ("header", "data_bytes", "complaint"),
    [
        ({"a": entry()}, 7, "the tensors take 8 bytes, the file holds 7"),
        ({"a": entry()}, 9, "the tensors take 8 bytes, the file holds 9"),
        ({"a": entry(data_offsets=[4, 12])}, 12, "tensor 'a': begins at byte 4 of the data, not at 0"),
        ({"a": entry(), "b": entry(data_offsets=[4, 12])}, 12, "tensor 'b': begins at byte 4 of the data, not at 8"),
        ({"a": entry(shape=[3])}, 8, r"tensor 'a': shape \[3\] of F32 takes 12 bytes, data_offsets give 8"),
        ({"a": entry(data_offsets=[8, 0])}, 8, "data_offsets give -8"),
        ({"a": entry(shape=[-2])}, 8, "integers from 0 up"),
        ({"a": entry(shape=[True, 2])}, 8, "integers from 0 up"),
        ({"a": entry(shape=[2.0])}, 8, "integers from 0 up"),
        ({"a": entry(shape=[2**40, 2**40, 0], data_offsets=[0, 0])}, 0, "larger than an array can be"),
        ({"a": entry(shape=[2] + [1] * 32)}, 8, "larger than an array can be"),
        ({"a": entry(dtype="F8_E4M3")}, 8, "dtype 'F8_E4M3' is unknown; known are F64"),
        ({"a": entry(dtype=["F32"])}, 8, "the entry must hold"),
        ({"a": entry(note=1)}, 8, "the entry must hold"),
        ({"a": [1]}, 8, "the entry must hold"),
        ({"\x1b[2J": entry()}, 8, "not a name of a tensor"),
        ({"\ud800": entry()}, 8, "surrogates not allowed"),
        ([], 0, "no JSON object"),
        (b"{", 0, "not valid JSON"),
        (b'{"a": {}, "a": {}}', 0, "given twice"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_file_and_tensor(
    tmp_path: Path, header: Any, data_bytes: int, complaint: str
) -> None:
    path = tmp_path / "bad.safetensors"
    write_raw(path, header, data_bytes)
    with pytest.raises(FileError, match=complaint) as raised:
        open_tensors(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_huge_name_does_not_make_a_huge_message(tmp_path: Path) -> None:
    write_raw(tmp_path / "file", {"a" * 100_000: entry(dtype="x")}, 8)
    with pytest.raises(FileError) as raised:
        open_tensors(tmp_path / "file")
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("content", [b"", b"1234567", (2**63).to_bytes(8, "little"), (9).to_bytes(8, "little") + b"{}"])
def test_a_header_longer_than_the_file_is_refused_before_it_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FileError, match="truncated or no tensor file"):
        open_tensors(tmp_path / "file")


def test_a_pipe_a_folder_and_an_absent_file_are_refused_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="pipe: not a regular file"):
        open_tensors(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        open_tensors(tmp_path)
    with pytest.raises(FileError, match="absent: no such file"):
        open_tensors(tmp_path / "absent")


@SHARED_FOLDER
@given(cut=st.integers(min_value=0, max_value=200))
def test_every_truncation_is_noticed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "file"
    write_tensors(path, {"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.int8)})
    content = path.read_bytes()
    path.write_bytes(content[: min(cut, len(content) - 1)])
    with pytest.raises(FileError):
        open_tensors(path)


@SHARED_FOLDER
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_an_error_that_is_expected_or_leaves_a_readable_file(
    tmp_path: Path, position: int, value: int
) -> None:
    path = tmp_path / "file"
    write_tensors(path, {"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.int8)})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    try:
        arrays = dict(open_tensors(path))
    except FileError:
        return
    assert sum(array.nbytes for array in arrays.values()) == 53
