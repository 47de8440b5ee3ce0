"""The golden store: what is written comes back bit for bit, and whatever is wrong is a one-line error that names it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.tensors import open_tensors, write_tensors
from grok_conformance.harness.golden.manifest import MANIFEST_DIGEST, NOISE
from grok_conformance.harness.golden.reading import (
    FixtureError,
    case_ids,
    open_golden,
    read_case,
    read_preset,
    read_taps,
)
from tests.harness.golden.spoilt import edit_json, refused
from tests.harness.tiny_golden import DECODE, DENSE, PREFILL, QUANTISED, draw_taps, write_tiny

STORED = {**DTYPES, "int8": np.dtype(np.int8)}

FILES = tuple(
    sorted(
        {MANIFEST, MANIFEST_DIGEST, NOISE}
        | {
            f"presets/{name}/{file}"
            for name in ("quantised", "dense")
            for file in ("config.json", "weights.safetensors")
        }
        | {
            f"cases/{case.id}/{file}"
            for case in (DECODE, PREFILL)
            for file in ("case.json", "inputs.safetensors", "taps.safetensors")
        }
    )
)
TAPS = f"cases/{PREFILL.id}/taps.safetensors"


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# What is written comes back


def test_config_comes_back_equal_to_the_last_bit_of_its_reals(golden: Path) -> None:
    assert read_preset(open_golden(golden), "quantised").config == QUANTISED.config
    assert read_preset(open_golden(golden), "dense").config == DENSE.config


@pytest.mark.parametrize("case", [DECODE, PREFILL], ids=lambda case: case.id)
def test_case_comes_back_whole(golden: Path, case: Any) -> None:
    read = read_case(open_golden(golden), case.id)
    assert replace(read, calls=(), preload=None) == replace(case, calls=(), preload=None)
    for call, expected in zip(read.calls, case.calls, strict=True):
        assert call.kind == expected.kind
        assert same_bits(call.tokens, expected.tokens)
        assert same_bits(call.lengths, expected.lengths)
    assert (read.preload is None) == (case.preload is None)
    if case.preload is not None:
        assert all(
            same_bits(getattr(read.preload, part), getattr(case.preload, part)) for part in ("keys", "values", "steps")
        )


def test_taps_come_back_bit_for_bit(golden: Path) -> None:
    expected, read = draw_taps(DECODE), read_taps(open_golden(golden), DECODE.id)
    assert set(read) == set(expected)
    assert all(same_bits(read[key], expected[key]) for key in expected)


def test_written_set_holds_the_documented_files_and_no_other(golden: Path) -> None:
    assert tuple(sorted(path.relative_to(golden).as_posix() for path in golden.rglob("*") if path.is_file())) == FILES


def test_equal_sets_are_equal_byte_for_byte(golden: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path / "again")
    assert all((golden / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in FILES)


def test_case_ids_match_a_glob_and_are_sorted(golden: Path) -> None:
    assert case_ids(open_golden(golden)) == (PREFILL.id, DECODE.id)
    assert case_ids(open_golden(golden), "*/decode/*") == (DECODE.id,)


# Bytes that were lost or altered


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(golden: Path, name: str) -> None:
    (golden / name).unlink()
    assert f"{golden / name}: no such file" in refused(golden)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_is_named(golden: Path, name: str, share: float) -> None:
    data = (golden / name).read_bytes()
    (golden / name).write_bytes(data[: int(share * len(data))])
    assert str(golden / name.replace(MANIFEST_DIGEST, MANIFEST)) in refused(golden)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bit_is_found_in_every_region_of_every_file(golden: Path, name: str) -> None:
    pristine = (golden / name).read_bytes()
    places = sorted({*range(8), *range(8, len(pristine), max(1, len(pristine) // 40)), len(pristine) - 1})
    for place in places:
        data = bytearray(pristine)
        data[place] ^= 1 << place % 8
        (golden / name).write_bytes(data)
        assert str(golden / name.replace(MANIFEST_DIGEST, MANIFEST)) in refused(golden)


def test_altered_tensor_is_named_with_both_digests(golden: Path) -> None:
    data = bytearray((golden / TAPS).read_bytes())
    data[-1] ^= 1
    (golden / TAPS).write_bytes(data)
    last = list(open_tensors(golden / TAPS))[-1]
    message = refused(golden)
    assert f"{golden / TAPS}: tensor {last!a} was altered: sha256 " in message
    assert open_golden(golden).manifest.cases[PREFILL.id].taps[last].sha256[:12] in message


def test_tensor_is_verified_only_when_it_is_read(golden: Path) -> None:
    data = bytearray((golden / TAPS).read_bytes())
    data[-1] ^= 1
    (golden / TAPS).write_bytes(data)
    taps = read_taps(open_golden(golden), PREFILL.id)
    *others, last = taps
    assert last in taps
    for key in others:
        taps[key]
    with pytest.raises(FixtureError, match="was altered"):
        taps[last]


def test_swapped_tensors_are_found(golden: Path) -> None:
    taps = {key: np.array(array) for key, array in open_tensors(golden / TAPS).items()}
    first, second = "call0/layers.00.kv.keys", "call0/layers.00.kv.values"
    taps[first], taps[second] = taps[second], taps[first]
    write_tensors(golden / TAPS, taps)
    assert "tensor 'call0/layers.00.kv." in refused(golden)


def test_tensor_of_another_shape_is_found_before_its_values_are_read(golden: Path) -> None:
    taps = {key: np.array(array) for key, array in open_tensors(golden / TAPS).items()}
    taps["call0/logits"] = taps["call0/logits"].reshape(-1)
    write_tensors(golden / TAPS, taps)
    with pytest.raises(FixtureError, match=r"tensor 'call0/logits' is float32 \[21\], expected float32 \[1, 3, 7\]"):
        read_taps(open_golden(golden), PREFILL.id)


@pytest.mark.parametrize(("change", "detail"), [("pop", "is missing"), ("add", "is not expected there")])
def test_tensor_missing_or_extra_is_named(golden: Path, change: str, detail: str) -> None:
    taps = dict(open_tensors(golden / TAPS))
    name = "call0/logits" if change == "pop" else "call0/surprise"
    if change == "pop":
        del taps[name]
    else:
        taps[name] = np.zeros(1, np.float32)
    write_tensors(golden / TAPS, taps)
    assert f"{golden / TAPS}: tensor {name!a} {detail}" in refused(golden)


@pytest.mark.parametrize("length", [2**63, 2**40, 2**24 + 1])
def test_absurd_header_length_is_refused_without_allocating_it(golden: Path, length: int) -> None:
    data = (golden / TAPS).read_bytes()
    (golden / TAPS).write_bytes(length.to_bytes(8, "little") + data[8:])
    assert str(golden / TAPS) in refused(golden)


# Files that should not be there


@pytest.mark.parametrize("name", ["notes.txt", f"cases/{DECODE.id}/.hidden", "cases/dense/other/what/case.json"])
def test_unknown_file_is_named(golden: Path, name: str) -> None:
    (golden / name).parent.mkdir(parents=True, exist_ok=True)
    (golden / name).write_text("{}")
    assert f"{golden / name}: the manifest does not know it" in refused(golden)


@pytest.mark.parametrize("name", ["manifest.json", "presets/dense", f"cases/{DECODE.id}/inputs.safetensors"])
def test_link_is_refused_even_to_the_right_content(golden: Path, tmp_path: Path, name: str) -> None:
    shutil.move(golden / name, tmp_path / "elsewhere")
    (golden / name).symlink_to(tmp_path / "elsewhere")
    assert str(golden / name) in refused(golden)


def test_linked_preset_is_refused_when_it_is_read(golden: Path, tmp_path: Path) -> None:
    shutil.move(golden / "presets", tmp_path / "elsewhere")
    (golden / "presets").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FixtureError, match="presets: a link"):
        read_preset(open_golden(golden), "dense")


@pytest.mark.parametrize("name", FILES)
def test_pipe_in_place_of_a_file_does_not_hang(golden: Path, name: str) -> None:
    (golden / name).unlink()
    os.mkfifo(golden / name)
    assert f"{golden / name}: not a regular file" in refused(golden)


# Names that lead elsewhere


@pytest.mark.parametrize(
    "evil",
    ["../../etc/passwd", "/etc/passwd/x", "dense/../..", "dense/a", "dense/./a", "Dense/a/b", "dense/a/b\n", "a//b"],
)
def test_id_that_could_leave_the_folder_is_refused_in_the_manifest(golden: Path, evil: str) -> None:
    edit_json(golden, MANIFEST, lambda manifest: manifest["cases"].update({evil: manifest["cases"].pop(DECODE.id)}))
    assert "(manifest.schema.json)" in refused(golden)


@pytest.mark.parametrize("evil", ["..", "../dense", "/etc", ".hidden", ""])
def test_preset_name_that_could_leave_the_folder_is_refused_in_the_manifest(golden: Path, evil: str) -> None:
    edit_json(golden, MANIFEST, lambda manifest: manifest["presets"].update({evil: manifest["presets"]["dense"]}))
    assert "(manifest.schema.json)" in refused(golden)


@pytest.mark.parametrize(
    "name", ["../../v1/cases/dense/prefill/padded", "dense/prefill", "dense/prefill/padded/", "\n"]
)
def test_unknown_case_is_an_error_that_names_one_there_is(golden: Path, name: str) -> None:
    for read in (read_case, read_taps, case_ids):
        with pytest.raises(FixtureError, match=r"no case '.*'; (there are|did you mean) (dense|quantised)") as caught:
            read(open_golden(golden), name)
        assert str(caught.value).isprintable()


def test_unknown_preset_is_an_error_that_names_the_nearest(golden: Path) -> None:
    with pytest.raises(FixtureError, match=r"no preset 'quantized'; did you mean quantised\?"):
        read_preset(open_golden(golden), "quantized")


def test_missing_set_is_an_error(tmp_path: Path) -> None:
    assert f"{tmp_path / 'v1'}: no such folder" in refused(tmp_path / "v1")
