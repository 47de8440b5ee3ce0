"""The golden store: what is written comes back bit for bit, and whatever is wrong is a one-line error that names it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.tensors import open_tensors, write_tensors
from grok_conformance.harness.golden.audit import check_golden
from grok_conformance.harness.golden.manifest import MANIFEST_DIGEST, NOISE
from grok_conformance.harness.golden.reading import (
    FixtureError,
    case_ids,
    open_golden,
    read_case,
    read_preset,
    read_taps,
)
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


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pristine") / "v1"
    write_tiny(directory)
    return directory


@pytest.fixture
def golden(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "v1"))


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def refused(directory: Path) -> str:
    """Return the message with which the audit refuses a set; it is one printable line that says how to fix the set."""
    with pytest.raises(FixtureError) as caught:
        check_golden(directory)
    message = str(caught.value)
    assert message.isprintable()
    assert "git checkout" in message
    assert "grok_conformance capture" in message
    return message


def edit_json(directory: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a JSON file and every digest that vouches for it, as if a faulty writer had written it so."""
    path = directory / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if name == MANIFEST:
        (directory / MANIFEST_DIGEST).write_text(f"{sha256}  {MANIFEST}\n")
    elif name == NOISE:
        edit_json(directory, MANIFEST, lambda manifest: manifest.update(noise=sha256))
    else:
        kind, *owner, file = Path(name).parts
        vouch = {Path(file).stem: sha256}
        edit_json(directory, MANIFEST, lambda manifest: manifest[kind]["/".join(owner)].update(vouch))


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


# JSON that a faulty writer wrote


def test_future_format_is_told_from_a_broken_manifest(golden: Path) -> None:
    edit_json(golden, MANIFEST, lambda manifest: manifest.update(format=2, presets=None, novelty=[]))
    assert f"{golden / MANIFEST}: format 2, expected 1: use the harness of that format" in refused(golden)


CASE_JSON, CONFIG_JSON = f"cases/{DECODE.id}/case.json", "presets/dense/config.json"

BREACHES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "no suite": (MANIFEST, lambda data: data.pop("suite")),
    "unknown key": (MANIFEST, lambda data: data.update(novelty=1)),
    "format as a string": (MANIFEST, lambda data: data.update(format="1")),
    "version as a number": (MANIFEST, lambda data: data["provenance"]["toolchain"].update(numpy=2)),
    "unprintable key": (MANIFEST, lambda data: data["provenance"]["toolchain"].update({"two\nlines": 2})),
    "no digest": (MANIFEST, lambda data: data["presets"]["dense"].update(config="12")),
    "no digest of the noise model": (MANIFEST, lambda data: data.pop("noise")),
    "unknown parameter": (NOISE, lambda data: data["parameters"].update(novelty="1")),
    "parameter as a number": (NOISE, lambda data: data["parameters"].update(false_alarm_rate=0.001)),
    "no validation": (NOISE, lambda data: data.pop("validation")),
    "statistic left out": (NOISE, lambda data: data["validation"]["worst"]["logits"]["float32"].pop("bulk")),
    "no reason": (CASE_JSON, lambda data: data.pop("why")),
    "unknown key of a case": (CASE_JSON, lambda data: data.update(novelty=1)),
    "preload as a number": (CASE_JSON, lambda data: data.update(preload=1)),
    "unknown kind of call": (CASE_JSON, lambda data: data["calls"].append({"kind": "forward"})),
    "no calls": (CASE_JSON, lambda data: data.update(calls=[])),
    "size as a string": (CONFIG_JSON, lambda data: data.update(vocab_size="7")),
    "decimal comma": (CONFIG_JSON, lambda data: data.update(output_multiplier_scale="0,5")),
    "real as a number": (CONFIG_JSON, lambda data: data.update(output_multiplier_scale=0.5)),
    "no layers": (CONFIG_JSON, lambda data: data["model"].update(num_layers=0)),
    "true for a number": (CONFIG_JSON, lambda data: data["model"].update(num_layers=True)),
    "no data axis": (CONFIG_JSON, lambda data: data["model"].pop("data_axis")),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_json_that_breaks_its_schema_is_named(golden: Path, breach: str) -> None:
    name, change = BREACHES[breach]
    edit_json(golden, name, change)
    message = refused(golden)
    assert f"{golden / name}: " in message
    assert ".schema.json)" in message


@pytest.mark.parametrize(
    "text",
    [b'{"format": 1, "format": 1}', b'{"format": NaN}', b"[1]", b"\xff", b"[" * 100_000, b'{"format": 1}'],
    ids=str,
)
def test_malformed_manifest_is_named(golden: Path, text: bytes) -> None:
    (golden / MANIFEST).write_bytes(text)
    assert str(golden / MANIFEST) in refused(golden)


@pytest.mark.parametrize("name", [MANIFEST, f"cases/{DECODE.id}/case.json"])
def test_enormous_json_is_refused_unread(golden: Path, name: str) -> None:
    os.truncate(golden / name, 2**35)  # sparse
    assert f"{golden / name}: larger than " in refused(golden)


def test_duplicate_key_is_named(golden: Path) -> None:
    text = (golden / MANIFEST).read_text()
    (golden / MANIFEST).write_text(text.replace('"format": 1,', '"format": 1, "format": 1,'))
    assert "key 'format' is given twice" in refused(golden)


def test_manifest_edited_without_its_digest_is_found(golden: Path) -> None:
    text = (golden / MANIFEST).read_text()
    (golden / MANIFEST).write_text(text.replace('"numpy": "2.0"', '"numpy": "2.1"'))
    assert f"altered: its sha256 is not the one in {MANIFEST_DIGEST}" in refused(golden)


@pytest.mark.parametrize(
    ("key", "value", "described"),
    [("id", "quantised/decode/other", "quantised/decode/other of preset quantised"), ("preset", "dense", "dense")],
)
def test_case_that_describes_another_is_found(golden: Path, key: str, value: str, described: str) -> None:
    edit_json(golden, f"cases/{DECODE.id}/case.json", lambda data: data.update({key: value}))
    assert f"{described}, expected {DECODE.id}" in refused(golden)


def test_inputs_that_do_not_belong_to_the_calls_are_found(golden: Path) -> None:
    edit_json(golden, f"cases/{DECODE.id}/case.json", lambda data: data.update(preload=False))
    assert "tensor 'preload/keys' (and 2 more) is not expected there" in refused(golden)


def test_case_without_its_preset_is_found(golden: Path) -> None:
    edit_json(golden, MANIFEST, lambda manifest: manifest["presets"].pop("dense"))
    assert f"case {PREFILL.id}: its preset is not in the set" in refused(golden)


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
