"""Dumps in the very formats that engines write, written here by the calls that they use."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from grok_conformance.harness.formats.dumps import READERS
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import write_tensors

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "call1.npz", logits=X, router=X + 1)
    dump = READERS["npz"](tmp_path, "call1")
    np.testing.assert_array_equal(dump["router"], X + 1)


def test_vllm_rows_are_in_sequence_by_layer(tmp_path: Path) -> None:
    (tmp_path / "call0").mkdir()
    for row in range(11):
        tensors = {"hidden_states": np.full((row + 1, 2, 4), row, ml_dtypes.bfloat16), "token_ids": np.arange(row + 1)}
        write_tensors(tmp_path / "call0" / f"{row}.safetensors", tensors)
    dump = READERS["vllm"](tmp_path, "call0")
    assert dump["row_offsets"].tolist() == [0, 1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66]
    assert dump["hidden_states.1"].shape == (66, 4)
    assert dump["hidden_states.0"][-1, 0] == 10


def test_a_dict_of_torch_has_names_for_what_is_nested(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(X)
    saved = {"logits": x.bfloat16(), "hidden_states": (x, x + 1), "past_key_values": ((x, x + 2),), "loss": None}
    torch.save(saved, tmp_path / "call0.pt")
    dump = READERS["torch"](tmp_path, "call0")
    assert set(dump) == {
        "logits",
        "hidden_states[0]",
        "hidden_states[1]",
        "past_key_values[0][0]",
        "past_key_values[0][1]",
    }
    assert str(dump["logits"].dtype) == "bfloat16"
    np.testing.assert_array_equal(dump["past_key_values[0][1]"], X + 2)


@pytest.mark.parametrize("with_meta", [False, True])
def test_sglangs_dumper(tmp_path: Path, with_meta: bool) -> None:  # noqa: FBT001 - both of its formats
    torch = pytest.importorskip("torch")
    (tmp_path / "call0").mkdir()
    for layer in range(2):
        value = torch.tensor(X) + layer
        saved = {"value": value, "meta": {"name": "hidden"}} if with_meta else value
        name = f"forward_pass_id=3___rank=0___name=hidden___dump_index={layer}___layer_id={layer}.pt"
        torch.save(saved, tmp_path / "call0" / name)
    dump = READERS["sglang"](tmp_path, "call0")
    assert set(dump) == {"hidden.0", "hidden.1"}
    np.testing.assert_array_equal(dump["hidden.1"], X + 1)


def test_ranks_of_sglang_have_names_of_their_own_and_a_second_pass_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "call0").mkdir()
    for rank in range(2):
        torch.save(torch.tensor(X), tmp_path / "call0" / f"forward_pass_id=1___rank={rank}___name=q___layer_id=0.pt")
    assert set(READERS["sglang"](tmp_path, "call0")) == {"rank0.q.0", "rank1.q.0"}
    torch.save(torch.tensor(X), tmp_path / "call0" / "forward_pass_id=2___rank=1___name=q___layer_id=0.pt")
    with pytest.raises(FileError, match=r"rank1\.q\.0 is dumped twice in call0"):
        READERS["sglang"](tmp_path, "call0")


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, ("hostile",))


def test_no_file_runs_code(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"x": Hostile()}, tmp_path / "call0.pt")
    with pytest.raises(FileError, match=r"call0\.pt: "):
        READERS["torch"](tmp_path, "call0")
    np.savez(tmp_path / "call0.npz", x=np.array([Hostile()], object))
    with pytest.raises(FileError, match=r"expected arrays, as np\.savez writes them"):
        READERS["npz"](tmp_path, "call0")
    (tmp_path / "call1.pt").write_bytes(pickle.dumps([1]))
    with pytest.raises(FileError):
        READERS["torch"](tmp_path, "call1")


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [("torch", "call0.pt", "a dict of tensors, as torch.save writes it"),
     ("npz", "call0.npz", "arrays, as np.savez writes them")],
)  # fmt: skip
def test_a_file_of_something_else_is_told_without_what_its_reader_would_have_one_do(
    kind: str, name: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(FileError) as raised:
        READERS[kind](tmp_path, "call0")
    assert re.fullmatch(rf"{tmp_path / name}: cannot be read \(\w+\): expected {expected}", str(raised.value))


@pytest.mark.parametrize("kind", READERS)
def test_a_dump_that_is_not_there_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not there; a case has one dump per call"):
        READERS[kind](tmp_path, "call0")
